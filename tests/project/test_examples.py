"""The scripts in examples/ do what they say, on a tiny model."""

import re
import runpy

import pytest
import torch

import engram
from support import tiny
from support.paths import REPOSITORY

TEXT = "Alexander the Great saw the Milky Way.\n\nBy the way, the Milky Way is wide.\n\n" * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an attached model and a text."""
    folder = tmp_path_factory.mktemp("examples")
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    engram.attach(base, tiny.memory_config(), folder / "attached", init="zero-table")
    (folder / "text.txt").write_text(TEXT)
    return folder


def main_of(name):
    return runpy.run_path(str(REPOSITORY / "examples" / name))["main"]


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
@pytest.mark.parametrize("name", ["train.py", "train_loop.py"])
def test_an_example_trains_the_memory_and_saves_what_verify_accepts(name, folder, tmp_path, capsys):
    out = tmp_path / "out"
    main_of(name)(str(folder / "attached"), str(folder / "text.txt"), str(out), 16)
    losses = re.findall(r"'?loss'?:? '?([\d.]+)", "".join(capsys.readouterr()))
    assert losses
    assert engram.verify(out).ok
    before = dict(engram.load(folder / "attached").named_parameters())
    changed = {
        name
        for name, weight in engram.load(out).named_parameters()
        if not torch.equal(weight, before[name])
    }
    assert changed
    assert all(".engram." in name for name in changed)
    assert any("multi_head_embedding" in name for name in changed)


def test_an_example_generates(folder, capsys):
    main_of("generate.py")(str(folder / "attached"), "the Milky")
    assert capsys.readouterr().out.startswith("the Milky")
