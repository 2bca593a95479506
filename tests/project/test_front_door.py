"""The public names: sorted, typed, documented, with examples that run and answers that are JSON."""

from __future__ import annotations

import doctest
import inspect
import json
import shlex
from typing import get_type_hints

import pytest

import engram
from support import tiny
from support.cli import run
from support.paths import BPE

TEXT = "Alexander the Great saw the Milky Way.\n\nThe tables are read.\n"
FUNCTIONS = [name for name in engram.__all__ if inspect.isfunction(getattr(engram, name))]
# Times, and where a name is given as a path in one way and as text in the other.
_CHANGING = {"seconds", "tokens_per_second", "free_bytes"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the examples name."""
    folder = tmp_path_factory.mktemp("door")
    (folder / "corpus.txt").write_text(TEXT)
    tiny.base_model("llama", folder / "model")
    engram.write_config(folder / "memory.yaml", tiny.memory_config())
    tiny.attached_model(folder / "model", folder / "with-memory")
    (folder / "gpt2").mkdir()
    for file in BPE.iterdir():
        (folder / "gpt2" / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_dir_shows_the_public_names_alone():
    assert engram.size  # what is used is kept in the module
    assert dir(engram) == sorted([*engram.__all__, "__version__"])
    assert engram.__all__ == sorted(engram.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented_and_typed(name):
    function = getattr(engram, name)
    lines = inspect.getdoc(function).splitlines()
    assert lines[0].endswith(".")
    parameters = inspect.signature(function).parameters
    assert bool(parameters) == ("Args:" in lines)
    assert "Examples:" in lines
    assert "Returns:" in lines or function.__annotations__["return"] == "None"
    for parameter in parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        named = parameter.name if parameter.kind is not parameter.VAR_KEYWORD else "**kwargs"
        assert any(line.strip().startswith(f"{named}:") for line in lines), parameter


def test_the_classes_that_functions_take_and_return_are_documented():
    for name in engram.__all__:
        assert inspect.getdoc(getattr(engram, name)), name


@pytest.mark.usefixtures("here")
def test_examples_run():
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    for name in FUNCTIONS:  # sorted, so that each finds what it reads
        text = getattr(engram, name).__doc__
        example = parser.get_doctest(text, {}, name, None, 0)
        assert example.examples, name
        runner.run(example, clear_globs=True)
    assert runner.summarize(verbose=False).failed == 0


def test_load_returns_a_model():
    from transformers import PreTrainedModel

    names = {**vars(inspect.getmodule(engram.load)), "PreTrainedModel": PreTrainedModel}
    assert get_type_hints(engram.load, names)["return"] is PreTrainedModel


OPTIONS_OF_TINY = engram.SizeOptions(k=2)
OPTIONS = engram.SizeOptions(k=2, layers=[1, 6], dtype="bfloat16")
SAME = {
    "size --model gpt2 --k 2 --layers 1,6 --dtype bf16": lambda: engram.size("gpt2", OPTIONS),
    "allocate --total 9.9B --active 993M --row-width 80": lambda: engram.allocate(
        9_900_000_000, 993_000_000, row_width=80
    ),
    "config show gpt2": lambda: engram.describe_config("gpt2"),
    "corpus build corpus.txt -t gpt2 -o built --split line --overwrite": lambda: (
        engram.build_corpus(
            "corpus.txt", "gpt2", "built", engram.TextOptions(split="line"), overwrite=True
        )
    ),
    "corpus info built": lambda: engram.describe_corpus("built"),
    "corpus verify built": lambda: engram.verify_corpus("built"),
    "hash corpus.txt -t gpt2 --predict 10k --layers 2": lambda: engram.hash_text(
        "corpus.txt", tokenizer="gpt2", options=engram.HashOptions(predict=10_000, layers=[2])
    ),
    "hash built -t gpt2 -o ids --overwrite": lambda: engram.hash_text(
        "built", tokenizer="gpt2", output="ids", options=engram.HashOptions(overwrite=True)
    ),
    "attach model -c memory.yaml -o new --link --overwrite": lambda: engram.attach(
        "model", "memory.yaml", "new", link=True, overwrite=True
    ),
    "attach model -c memory.yaml -o newer --adapter --dry-run": lambda: engram.attach(
        "model", "memory.yaml", "newer", adapter=True, dry_run=True
    ),
    "convert with-memory -o int8 --dtype int8 --overwrite": lambda: engram.convert(
        "with-memory", "int8", dtype="int8", overwrite=True
    ),
    "lookup with-memory 'the Milky Way'": lambda: engram.look_up("with-memory", "the Milky Way"),
    "report with-memory --mode training --tp 2": lambda: engram.report(
        "with-memory", options=engram.ReportOptions(mode="training", tp=2)
    ),
    "report gpt2 --model gpt2": lambda: engram.report("gpt2", "gpt2"),
    "verify with-memory --headers-only": lambda: engram.verify("with-memory", headers_only=True),
}


def without_times(values):
    return {key: value for key, value in values.items() if key not in _CHANGING}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", SAME)
def test_answers_are_what_commands_print(line):
    printed = run(*shlex.split(line), "--json").json()
    result = SAME[line]()
    assert without_times(json.loads(json.dumps(result.to_dict()))) == without_times(printed)
    assert len(repr(result)) < 160
    with pytest.raises(AttributeError):
        result.anything = 1


@pytest.mark.usefixtures("here")
def test_detach_answers_what_its_command_prints():
    printed = run("detach", "with-memory", "-o", "one", "--json").json()
    assert engram.detach("with-memory", "other").to_dict() == {**printed, "output": "other"}


def test_paths_and_what_they_hold_are_taken_alike(here):
    config, backbone = engram.load_config("memory.yaml"), engram.load_backbone(here / "model")
    tokenizer = here / "gpt2"
    hashed = [
        engram.hash_text("corpus.txt", each, tokenizer).plan.addresses.fingerprint
        for each in ("memory.yaml", here / "memory.yaml", config)
    ]
    assert len(set(hashed)) == 1
    for each in ("memory.yaml", here / "memory.yaml", config):
        planned = engram.attach("model", each, "planned", tokenizer=tokenizer, dry_run=True)
        assert planned.to_dict()["plan"]["fingerprint"] == hashed[0]
        assert engram.report(each).to_dict()["totals"] == engram.report(config).to_dict()["totals"]
    one, other = (engram.size(it, OPTIONS_OF_TINY) for it in (here / "model", backbone))
    assert one.to_dict() == other.to_dict()
    assert engram.check_config(here / "memory.yaml", backbone).exit_code == 0
