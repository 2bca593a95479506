"""Every command and every piece of Python in the README runs, on a tiny model."""

from __future__ import annotations

import re
import shlex

import pytest

from support import tiny
from support.cli import run
from support.paths import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
COMMANDS = [
    line.removeprefix("$ engram ")
    for block in re.findall(r"```console\n(.*?)```", README, flags=re.S)
    for line in block.splitlines()
    if line.startswith("$ engram ")
]
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the README names."""
    folder = tmp_path_factory.mktemp("readme")
    # Wide enough for a quarter of it to hold two layers' tables.
    tiny.base_model("llama", folder / "smollm2-135m", sizes={"intermediate_size": 4096})
    (folder / "english.txt").write_text("Alexander the Great saw the Milky Way.\n\n" * 30)
    return folder


def test_commands_run_in_order(folder, monkeypatch):
    assert [command.split()[0] for command in COMMANDS] == [
        *("size", "size", "config", "config", "hash", "attach", "report", "verify", "train"),
        *("eval", "gates", "depth"),
    ]
    monkeypatch.chdir(folder)
    for command in COMMANDS:
        done = run(*shlex.split(command))
        assert done.code == 0, f"{command}: {done.stderr}"


def test_python_runs(folder, tmp_path, monkeypatch):
    # Nothing but the base and the text is there: the block makes all else that it reads.
    for name in ("smollm2-135m", "english.txt"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    (code,) = PYTHON
    exec(code, {})


def test_make_targets_exist():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)`?", README):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
