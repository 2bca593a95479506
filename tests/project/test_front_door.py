"""The public names: sorted, typed, documented, with examples that run and answers that are JSON."""

from __future__ import annotations

import doctest
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import get_type_hints

import pytest

import engram
from support import tiny
from support.cli import run
from support.gguf_memories import write_filled
from support.paths import BPE

TEXT = "Alexander the Great saw the Milky Way.\n\nThe tables are read.\n"
FUNCTIONS = [name for name in engram.__all__ if inspect.isfunction(getattr(engram, name))]
# Times, and where a name is given as a path in one way and as text in the other.
_CHANGING = {"seconds", "tokens_per_second", "free_bytes"}


def returned(function) -> str:
    """The name of the type that a function returns, whether its annotation is text or a type."""
    annotation = function.__annotations__["return"]
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


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
    write_filled(folder / "model.gguf", "gguf_llama", offsets=[0] * 12)
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
    assert "Returns:" in lines or returned(function) == "None"
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
    "allocate --model qwen3-30b-a3b --rho 0.8 --layers 1,14": lambda: engram.allocate_mixture(
        "qwen3-30b-a3b", rho="0.8", options=engram.SizeOptions(layers=[1, 14])
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


@pytest.mark.usefixtures("here")
def test_configs_are_parts_of_what_their_commands_print():
    (checked,) = run("config", "check", "memory.yaml", "--json").json()["files"]
    verdict = engram.check_config("memory.yaml")
    assert (verdict.to_dict(), verdict.ok) == (checked, True)
    made = run("config", "new", "gpt2", "--k", "5", "--json").json()
    assert engram.new_config("gpt2", k=5).to_dict() == made["config"]


# Public names that the calls below use as arguments.
ACCESSIBLE = {name: getattr(engram, name) for name in ("TextOptions", "load_config")}
# Calls that are not meant, each with the words that name the argument and say what is right.
REFUSED = {
    "attach('model', 'memory.yaml', 'o', init='zero')": "one of 'identity', 'zero-table', 'paper'",
    "attach('model', 5, 'out')": "config must be a text or a Path or an EngramConfig or a SizeOp",
    "SizeOptions(per='Head')": "per must be one of 'order', 'head', got 'Head'",
    "SizeOptions(budget='40M')": "Give the number itself: 40_000_000.",
    "SizeOptions(layers='1,6')": "layers must be a list (of each: a whole number) or None",
    "HashOptions(format='csv')": "format must be one of 'npy', 'parquet'",
    "HashOptions(split='sentence')": "split must be one of 'paragraph', 'line', 'file'",
    "HashOptions(cache_curve=True, cache_tokens=0)": "cache_tokens must be >= 1, got 0",
    "TextOptions(on_error='ignore')": "on_error must be one of 'stop', 'skip'",
    "TextOptions(shard_tokens=0)": "shard_tokens must be >= 1, got 0",
    "ReportOptions(mode='train')": "mode must be one of 'inference', 'training'",
    "ReportOptions(tables='ssd')": "tables must be one of 'auto', 'gpu', 'cpu', 'disk'",
    "ReportOptions(optimizer='lion')": "optimizer must be one of 'adam'",
    "ReportOptions(device_memory=-1)": "device_memory must be >= 0, got -1",
    "ReportOptions(device_memory='80GiB')": "Give the number itself: 85_899_345_920.",
    "ReportOptions(tp=-1)": "tp must be >= 0, got -1",
    "build_corpus('corpus.txt', 'gpt2', 'out', workers=0)": "workers must be >= 1, got 0",
    "build_corpus('corpus.txt', 'gpt2', 'out', unit_bytes=0)": "unit_bytes must be >= 1, got 0",
    "hash_text('corpus.txt', workers=0)": "workers must be >= 1, got 0",
    "hash_text('corpus.txt', options=TextOptions())": "options must be a HashOptions or None",
    "size(5)": "model must be a text or a Path or a Backbone or None, got 5 (int)",
    "size('gpt2', 40_000_000)": "options must be a SizeOptions or None, got 40000000 (int)",
    "allocate('9.9B', 993_000_000)": "Give the number itself: 9_900_000_000.",
    "allocate(9_900_000_000, '993M')": "active must be a whole number or None, got '993M'",
    "write_config('new.yaml', 'gpt2')": "config must be an EngramConfig, got 'gpt2' (str)",
    "EngramTokenizer('memory.yaml')": "config must be an EngramConfig, got 'memory.yaml' (str)",
    "EngramModule('memory.yaml', [[7]])": "config must be an EngramConfig or None, got",
    "EngramModule(load_config('gpt2'), 5)": "layer_vocab_sizes must be a list",
    "Hasher('memory.yaml')": "addresses must be an Addresses, got 'memory.yaml' (str)",
    "HashedDataset('corpus.txt', 'memory.yaml', window_tokens=0)": "window_tokens must be >= 1",
    "HashedDataset('corpus.txt', 5, window_tokens=8)": "config must be an EngramConfig or a text",
    "look_up('with-memory', 5)": "text must be a text, got 5 (int)",
    "load('with-memory', tables='ssd')": "tables must be one of 'ram', 'disk'",
    "load('with-memory', cache_rows=-1)": "cache_rows must be >= 0, got -1",
    "load_backbone(None)": "name_or_path must be a text or a Path, got None",
    "load_config(5)": "name_or_path must be a text or a Path, got 5 (int)",
    "new_config('gpt2', k='5')": "k must be a number or None, got '5' (str)",
    "new_config('gpt2', settings=['k'])": "settings must be a Mapping or None",
    "report('gpt2', options={'tp': 2})": "options must be a ReportOptions or None",
    "check_config(load_config('gpt2'))": "source must be a text or a Path, got EngramConfig",
    "describe_config(5)": "source must be a text or a Path or an EngramConfig",
    "describe_corpus(5)": "folder must be a text or a Path",
    "verify_corpus('built', print)": "tokenizer must be a text or a Path or a TokenizerFile",
    "verify('with-memory', full=1)": "full must be True or False, got 1 (int)",
    "convert('with-memory', 'out', link='yes')": "link must be True or False, got 'yes' (str)",
    "detach('with-memory', 5)": "output must be a text or a Path, got 5 (int)",
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("call", REFUSED)
def test_what_is_not_meant_is_refused_by_name(call):
    before = sorted(Path().iterdir())
    with pytest.raises(engram.UsageError) as caught:
        eval(f"engram.{call}", {"engram": engram, **ACCESSIBLE})
    assert REFUSED[call] in str(caught.value)
    assert sorted(Path().iterdir()) == before


@pytest.mark.usefixtures("here")
def test_configs_are_not_replaced_silently():
    config = engram.load_config("gpt2")
    engram.write_config("kept.yaml", config, title="The first")
    with pytest.raises(engram.InputError, match="already there"):
        engram.write_config("kept.yaml", config)
    assert "The first" in Path("kept.yaml").read_text()
    engram.write_config("kept.yaml", config, overwrite=True)
    assert "The first" not in Path("kept.yaml").read_text()
    with pytest.raises(engram.MissingFileError, match="nowhere does not exist"):
        engram.write_config("nowhere/new.yaml", config)


@pytest.mark.usefixtures("here")
def test_ids_below_zero_are_refused():
    tokenizer = engram.EngramTokenizer(tiny.memory_config(), "gpt2")
    for call in (tokenizer.compress, tokenizer.compress_and_hash, tokenizer.row_ids):
        with pytest.raises(engram.InputError, match=r"Token ids must be >= 0, got -7\."):
            call([[3, -7]])


@pytest.mark.usefixtures("here")
def test_classes_name_themselves_shortly():
    tokenizer = engram.EngramTokenizer(tiny.memory_config(), "gpt2")
    windows = engram.HashedDataset("corpus.txt", "memory.yaml", window_tokens=8, tokenizer="gpt2")
    for each in (tokenizer, tokenizer.addresses, engram.Hasher(tokenizer.addresses), windows):
        assert repr(each).startswith(f"<{type(each).__name__}: ")
        assert len(repr(each)) < 160


@pytest.mark.usefixtures("here")
def test_an_adapter_alone_names_the_call_that_joins_it():
    engram.attach("model", "memory.yaml", "alone", adapter=True)
    with pytest.raises(engram.LayoutError, match=r'engram\.load\(BASE, "alone"\)'):
        engram.load("alone")


def test_results_and_errors_are_public():
    for name in FUNCTIONS:
        function = getattr(engram, name)
        names = [word.rpartition(".")[2] for word in re.findall(r"[\w.]+\w", returned(function))]
        public = {*engram.__all__, "None", "str", "list", "tuple", "PreTrainedModel"}
        assert public >= {*names}, name
    errors = {*leaves(engram.EngramError)}
    assert {error.__name__ for error in errors if error.__module__ == "engram.errors"} <= {
        *engram.__all__
    }


def leaves(kind):
    for each in kind.__subclasses__():
        yield each
        yield from leaves(each)
