"""Commands on checkpoints: what wrong calls are told, where the next step is written, widths."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from engram.config.config_file import write_config
from support import tiny
from support.cli import run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model, that model with a memory, an adapter for it, and files that are no checkpoints."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny.base_model("llama", folder / "model")
    tiny.attached_model(folder / "model", folder / "attached")
    tiny.attached_model(folder / "model", folder / "adapter", adapter=True)
    write_config(folder / "memory.yaml", tiny.memory_config())
    (folder / "text.txt").write_text("no checkpoint")
    return folder


@pytest.fixture
def here(folders, monkeypatch):
    monkeypatch.chdir(folders)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        *(
            (
                f"{command} {file}{more}",
                3,
                f"{file} is not a checkpoint: neither a folder nor a saf",
            )
            for command, more in (("verify", ""), ("lookup", " hi"), ("convert", " -o new"))
            for file in ("memory.yaml", "text.txt")
        ),
        *(
            (f"{command} none{more}", 4, "none does not exist.")
            for command, more in (("lookup", " hi"), ("convert", " -o x"), ("detach", " -o x"))
        ),
        ("verify ./none", 4, "none does not exist."),
        ("attach none/none -c memory.yaml -o new", 4, "Connection refused"),
        ("verify none/none", 4, "asking the hub failed"),
        ("verify attached -t none", 4, "The tokenizer none is not a folder here"),
        ("lookup attached hi -t none", 4, "The tokenizer none is not a folder here"),
        ("lookup attached hi -c none", 4, "'none' is neither a template nor a file here"),
        ("attach model -c memory.yaml -o new --dtype floaty", 2, "'--dtype': 'floaty' is not a"),
        (
            "attach model -c memory.yaml -o new --init zero",
            2,
            "'--init': 'zero' is not one of",
        ),
        ("attach model -c none.yaml -o new", 4, "none.yaml does not exist"),
        ("attach model -c memory.yaml", 2, "Pass -o FOLDER."),
        ("attach model -o new", 5, "No memory fits"),
        ("convert attached -o new --dtype int4", 2, "'--dtype': 'int4' is not a table dtype"),
        ("convert attached -o new --to demo --dtype fp8", 2, "'--dtype': The published format of"),
        ("convert attached -o new --to qwen_ple", 2, "'--to': A memory of layout demo cannot be"),
        (
            "convert attached -o new --to safetensors",
            2,
            "'--to': 'safetensors' is not one of",
        ),
        ("detach model -o new", 3, "there is nothing to detach"),
        ("detach adapter -o new", 3, "is an adapter"),
        ("lookup model text", 3, "engram attach model -c CONFIG"),
    ],
)
@pytest.mark.usefixtures("here")
def test_wrong_calls(folders, line, code, says):
    found, out, err = run(*line.split())
    assert (found, out) == (code, ""), err
    assert says in err
    assert err.count("\n") >= 2, "every dead end names the next step"
    assert not (folders / "new").exists()
    assert json.loads(run(*f"{line} --json".split())[2])["hint"]


@pytest.mark.usefixtures("here")
def test_the_next_step_goes_to_stderr(tmp_path):
    code, out, err = run(*f"attach model -c memory.yaml -o {tmp_path}/a".split())
    assert (code, err) == (0, f"Next: engram verify {tmp_path}/a\n")
    assert "Next" not in out
    code, out, err = run(*f"attach model -c memory.yaml -o {tmp_path}/b --adapter".split())
    assert f'python -c \'import engram; model = engram.load("model", "{tmp_path}/b")\'' in err
    assert "Next" not in out
    code, out, err = run(*f"convert attached -o {tmp_path}/c --dtype int8".split())
    assert (code, err) == (0, f"Next: engram verify {tmp_path}/c\n")
    for flags in ("-q", "--json"):
        line = f"convert attached -o {tmp_path}/c --dtype int8 --overwrite {flags}"
        assert run(*line.split()).stderr == ""


@pytest.mark.parametrize(
    "line",
    [
        "report attached --mode training --tp 16 --device-memory 8GiB --host-memory 8GiB",
        "report deepseek-v4.1-flash --mode inference --tp 4 --tokens-per-second 10000",
        "report deepseek-v4.1-flash --model deepseek-v3 --tp 16 --mode training",
        "size --model gpt2",
        "size --model llama-3.1-70b --share 0.5",
        "size --layout deepseek_v41 --hidden-size 4096 --vocab 128815 --layers 1,14 --budget 200B",
        "size --model gpt2 --per head",
        "allocate --total 9.9B --active 993M --row-width 80",
        "allocate --model deepseek-v3",
        "lookup attached hello",
        "config ls",
        "config show deepseek-v4.1-flash",
        "verify attached --headers-only",
        "env",
    ],
)
@pytest.mark.usefixtures("here")
def test_numbers_stand_whole_in_80_columns(line, monkeypatch):
    """A terminal folds texts between words; it neither cuts nor breaks a number."""
    _, wide, _ = run(*line.split())
    screens = []

    def narrow(**settings):
        screens.append(Console(**{**settings, "file": io.StringIO(), "width": 80}))
        return screens[0]

    monkeypatch.setattr("rich.console.Console", narrow)
    code, shown, err = run(*line.split())
    assert code == 0, err
    assert screens
    assert "…" not in shown
    table = [text for text in shown.splitlines() if not text.startswith("#")]
    if not line.startswith("config show"):  # its YAML is to be copied, and is not folded
        assert max(map(len, table)) <= 80
    numbers = {word for word in wide.split() if word.replace(",", "").replace(".", "").isdigit()}
    assert numbers <= set(shown.split())


@pytest.mark.usefixtures("here")
def test_a_place_that_takes_no_folder_is_named_as_the_user_does(tmp_path):
    place = tmp_path / ("n" * 250)  # the hidden name beside it is too long
    for line in ("attach model -c memory.yaml", "convert attached", "detach attached"):
        code, out, err = run(*f"{line} -o {place}".split())
        assert (code, out) == (3, "")
        assert err.startswith(f"Error: {place}: File name too long.")
    assert list(tmp_path.iterdir()) == []


def test_verify_names_a_template(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run("verify", "deepseek-v4.1-flash").ended(4).stderr
    assert "deepseek-v4.1-flash is a template" in said
    assert "engram report deepseek-v4.1-flash" in said


@pytest.mark.parametrize("command", ["attach", "convert", "report", "size"])
def test_the_help_of_dtype_lists_what_its_refusal_lists(command):
    listed = []
    for words in (["--help"], ["x", "--dtype", "bf17"][command == "size" :]):
        done = run(command, *words).ended(0 if words == ["--help"] else 2)
        text = " ".join((done.stdout + done.stderr).split())
        (names,) = re.findall(r"(?:tables:|One of) (float64(?:, \w+)+)", text)
        listed.append(names)
    assert listed[0] == listed[1]
    assert "fp8" in listed[0]
