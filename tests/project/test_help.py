"""Help pages: every one ends with examples, every example runs, every flag is written down.

The flags are written down anew by
``PYTHONPATH=tests python tests/project/test_help.py > tests/flags.txt``.
"""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import typer
import yaml

from engram_cli import main as cli
from engram_cli.help import split_examples
from support.cli import run
from support.hashed_statistics import write_statistics
from support.paths import BPE, TESTS

FLAGS = TESTS / "flags.txt"
TEXT = "The tables are read once per token.\n\nAlexander the Great saw the Milky Way.\n\n"


def pages():
    """Every help page: the words that call it and its command."""
    root = typer.main.get_command(cli.app)
    yield (), root
    for name in root.list_commands(None):
        command = root.get_command(None, name)
        yield (name,), command
        for child, subcommand in getattr(command, "commands", {}).items():
            yield (name, child), subcommand


PAGES = dict(pages())
EACH_PAGE = pytest.mark.parametrize("words", PAGES, ids=" ".join)


def flags():
    lines = [
        " ".join(("engram", *words, flag))
        for words, command in PAGES.items()
        for param in command.params
        for flag in (*param.opts, *param.secondary_opts)
        if flag.startswith("-")
    ]
    return "\n".join(sorted(lines)) + "\n"


def examples(command):
    return [line.removeprefix("$ engram ") for line in command.epilog.splitlines()]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """What examples name: a text, a config, and a tokenizer as long as GPT-2's in its stead."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    from engram.addressing.tokenizer_files import load_tokenizer
    from engram.config.config_file import write_config
    from engram.config.engram_config import EngramConfig
    from engram.corpus.building.build_corpus import build_corpus
    from engram.corpus.text.sources import find_sources
    from engram.corpus.text.text_options import TextOptions
    from support.gguf_memories import write_filled

    folder = tmp_path_factory.mktemp("texts")
    (folder / "corpus.txt").write_text(TEXT * 20)
    (folder / "corpus.jsonl").write_text(f"{json.dumps({'text': TEXT})}\n" * 20)
    words = [*dict.fromkeys(TEXT.split()), *(f"w{i}" for i in range(50_257))][:50_256]
    vocab = {word: i for i, word in enumerate([*words, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    (folder / "gpt2").mkdir()
    tokenizer.save(str(folder / "gpt2" / "tokenizer.json"))
    (folder / "gpt2" / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    config = EngramConfig(
        tokenizer=str(BPE),
        hidden_size=32,
        engram_vocab_size=544,
        k=2,
        max_ngram_size=3,
        n_embed_per_ngram=16,
        n_head_per_ngram=4,
        layer_ids=[1, 2],
        pad_id=2,
    )
    write_config(folder / "config.yaml", config)
    (sources, _), small = find_sources(folder / "corpus.txt"), load_tokenizer(config.tokenizer)
    build_corpus(sources, small, folder / "tokens", TextOptions())
    write_statistics(folder / "stats.json")
    write_filled(folder / "model.gguf", "gguf_ds4")
    shutil.copy(folder / "model.gguf", folder / "original.gguf")
    return folder


@pytest.fixture(scope="module")
def models(texts, tmp_path_factory):
    """The same, with a model, and that model with a memory."""
    from engram.config.config_file import read_config
    from support import tiny

    folder = shutil.copytree(texts, tmp_path_factory.mktemp("models") / "models")
    # Wide enough for a tenth of it to hold two layers' tables.
    tiny.base_model("llama", folder / "model", sizes={"intermediate_size": 4096})
    llama = {"model_type": "llama", "tokenizer": str(BPE), **tiny.SIZES["llama"]}
    (folder / "llama.yaml").write_text(yaml.safe_dump(llama))
    config = read_config(folder / "config.yaml")
    tiny.attached_model(folder / "model", folder / "attached-model", config)
    return folder


@EACH_PAGE
def test_a_page_explains_its_command_and_ends_with_examples(words):
    code, out, err = run(*words, "-h")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: {' '.join(('engram', *words))} ")
    assert run(*words, "--help") == (code, out, err)
    _, _, end = out.rpartition("\nExamples:\n")
    assert end.splitlines()
    assert all(line.startswith("  $ engram ") for line in end.splitlines())
    for param in PAGES[words].params:
        if param.param_type_name == "option":
            assert param.help, param.name


@EACH_PAGE
def test_a_page_fits_a_terminal_and_names_no_python(words):
    _, out, _ = run(*words, "-h", columns=80)
    text, _, _ = out.rpartition("\nExamples:\n")
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text.replace("ARGS]...", "").replace("TEMPLATE...", "").replace(
        "INPUT...", ""
    )
    for name in ("<int", "<float", "<str", "<path", "<list", "{", "}"):
        assert name not in text, name


@EACH_PAGE
def test_every_example_runs(words, request, tmp_path, monkeypatch):
    lines = examples(PAGES[words])
    needs_model = any("./model" in line or "attached-model" in line for line in lines)
    prepared = request.getfixturevalue("models" if needs_model else "texts")
    monkeypatch.chdir(shutil.copytree(prepared, tmp_path / "examples"))
    if not any("-t gpt2" in line for line in lines):
        shutil.rmtree("gpt2")  # elsewhere the name means a template, or a model of the catalogue
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with Path("corpus.txt").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        run_all(lines)


def run_all(lines):
    for example in lines:
        code, out, err = run(*shlex.split(example))
        # "It does not fit" is an answer, too.
        assert code == 0 or (code == 5 and out), f"{example}: {err}"
        if "--json" in example:
            answer = json.loads(out)
            assert next(iter(answer)) == "schema"
            command, action = shlex.split(example)[:2]
            named = (f"engram.{command}/1", f"engram.{command}-{action}/1")
            assert answer["schema"] in named


def test_the_list_of_commands_names_the_modules():
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
    assert set(cli.COMMANDS) <= modules
    assert all(summary.endswith(".") for summary in cli.COMMANDS.values())


def test_examples_stand_apart_from_the_text():
    docstring = """Do it.

    With care.

    Examples:
        $ engram it
        $ engram it --json
    """
    assert split_examples(docstring) == (
        "Do it.\n\nWith care.\n",
        "$ engram it\n$ engram it --json",
    )
    assert split_examples(None) == ("", "")


def test_no_flag_appears_or_goes_unnoticed():
    known, now = set(FLAGS.read_text().splitlines()), set(flags().splitlines())
    command = "PYTHONPATH=tests python tests/project/test_help.py > tests/flags.txt"
    hint = f"{command}, and tell it in CHANGELOG.md"
    assert {"new": now - known, "gone": known - now} == {"new": set(), "gone": set()}, hint


def test_options_go_by_the_names_that_they_had_before(texts, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    words = f"hash {texts / 'corpus.jsonl'} -c {texts / 'config.yaml'} -o {tmp_path / 'o'} --json"
    more = "--threads 1 --text-key=text --shard-tokens 100"
    code, _, err = run(*words.split(), *more.split())
    assert code == 0, err
    assert len(list((tmp_path / "o").glob("ids-*.npy"))) > 1
    code, _, err = run(*words.split(), "--overwrite", "--workers", "0")
    assert code == 2
    assert "'--num-proc'" in err
    assert "--threads" not in run("hash", "-h").stdout


def test_shared_flags_mean_the_same_everywhere():
    meanings = {}
    for words, command in PAGES.items():
        for param in command.params:
            if param.opts[0].startswith("-"):
                for flag in param.opts:
                    meanings.setdefault(flag, {}).setdefault(param.name, []).append(words)
    assert {flag: names for flag, names in meanings.items() if len(names) > 1} == {}


if __name__ == "__main__":
    print(flags(), end="")
