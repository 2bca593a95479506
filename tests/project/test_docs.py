"""Every command and every piece of Python in the pages under docs/ runs, on a tiny model.

A block after a comment such as ``<!-- parsed only: needs the hub -->`` is parsed and not run.
"""

from __future__ import annotations

import importlib.util
import json
import pkgutil
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

import engram
import engram.evaluation
import engram.pictures
import engram.training
from engram_cli import main as cli
from support import tiny
from support.cli import run
from support.paths import REPOSITORY as ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXT = "Alexander the Great saw the Milky Way.\n\nBy the way, the Milky Way is wide.\n\n" * 40
_BLOCK = re.compile(
    r"(?P<parsed><!-- parsed only: [^\n]+ -->\n)?```(?P<kind>console|python)\n(?P<text>.*?)```",
    re.DOTALL,
)


def blocks(page):
    """The blocks of a page: kind, lines of commands or of Python, and whether they are run."""
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        lines = block["text"].splitlines()
        if block["kind"] == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        yield block["kind"], lines, block["parsed"] is None


def each(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


def commands(page):
    return [line for kind, lines, _ in blocks(page) if kind == "console" for line in lines]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with everything that pages name."""
    folder = tmp_path_factory.mktemp("docs")
    # Wide enough for a quarter of it to hold two layers' tables, of any layout.
    tiny.base_model(
        "llama", folder / "smollm2-135m", sizes={"intermediate_size": 4096, "num_hidden_layers": 3}
    )
    (folder / "english.txt").write_text(TEXT)
    (folder / "foldoc.txt").write_text(TEXT)
    (folder / "sample.txt").write_text(TEXT)
    (folder / "records.jsonl").write_text(f"{json.dumps({'text': TEXT})}\n" * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            "config new smollm2 --model ./smollm2-135m -o memory.yaml",
            "attach ./smollm2-135m -c memory.yaml -o attached",
            "attach ./smollm2-135m -c memory.yaml -o adapter --adapter",
            "corpus build sample.txt -t ./smollm2-135m -o tokens",
        ):
            run(*shlex.split(line)).ended()
    return folder


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
@each([page for page in PAGES if any(blocks(page))])
def test_commands_and_python_run(page, prepared, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(prepared, tmp_path / "page"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = re.findall(r"(?:-o|--emit) (\S+)", "\n".join(commands(page)))
    for name in set(made) & {path.name for path in folder.iterdir()}:
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()
    if '"gpt2")' in page.read_text(encoding="utf-8"):
        gpt2_tokenizer(folder / "gpt2")
    names: dict[str, object] = {}
    for kind, lines, is_run in blocks(page):
        if kind == "python":
            code = compile("\n".join(lines), str(page), "exec")
            if is_run:
                exec(code, names)
            continue
        for line in lines:
            program, _, words = line.partition(" ")
            assert program == "engram", line
            if not is_run:
                parse(shlex.split(words))
                continue
            done = run(*shlex.split(words))
            assert done.code == 0, f"{line}: {done.stderr}"
            if "--json" in words and words.startswith("hash"):
                Path("stats.json").write_text(done.stdout)


def gpt2_tokenizer(folder):
    """A tokenizer as long as GPT-2's, in its stead."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(50257)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "w5"}')


def parse(words, command=None, context=None):
    """Parse a command line with the real parser, and run nothing."""
    command = command or typer.main.get_command(cli.app)
    name = words[0] if words else command.name
    if hasattr(command, "get_command"):
        command = command.get_command(context, words[0])
        assert command is not None, words
        return parse(words[1:], command, context)
    return command.make_context(name, list(words))


def test_the_parser_refuses_what_no_command_takes():
    parse(shlex.split("report org/name --tables cpu"))
    with pytest.raises(Exception, match="no-such-option"):
        parse(shlex.split("report org/name --no-such-option"))


@each(PAGES)
def test_links_lead_somewhere(page, made):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "#")):
            name = target.partition("#")[0]
            assert name in made.ROOT_PAGES or (page.parent / name).is_file(), target


@each(PAGES)
def test_names_of_the_library_exist(page):
    # Names of JSON schemas, such as engram.size/1, are none of the library's.
    names = re.findall(r"`(engram(?:\.[a-zA-Z_]\w*)+)(?![\w/])", page.read_text(encoding="utf-8"))
    for name in names:
        assert pkgutil.resolve_name(name)


def test_make_targets_that_pages_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"`make (\w+)`", page.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.fixture(scope="module")
def made():
    """The module that makes parts of the pages."""
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "scripts" / "docs_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_marker_is_filled_in(made):
    markers = [
        name
        for page in PAGES
        for name in re.findall(r"<!-- made: (.+) -->", page.read_text(encoding="utf-8"))
    ]
    assert sorted(markers) == sorted(made.MADE)


def test_the_reference_holds_every_command_option_and_name(made):
    text = made.commands()
    for words, command in made.each_command():
        assert f"# engram {' '.join(words)}\n" in text
        for param in command.params:
            if param.param_type_name == "option":
                assert all(name in text for name in (*param.opts, *param.secondary_opts))
        assert command.epilog in text
    doors = {"library": engram, "training": engram.training, "evaluation": engram.evaluation}
    for part, door in (doors | {"pictures": engram.pictures}).items():
        names = [f"::: {door.__name__}.{name}" for name in door.__all__]
        assert made.MADE[part]().splitlines()[::2] == names
    assert made.config_keys().count("\n| `") == len(engram.load_config("tiny").to_dict()) - 1


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"] == engram.__version__
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2601.07372"
