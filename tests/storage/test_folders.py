"""Folders of results: whole or not there, also when the process is killed or the disk is full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import engram
from engram.checkpoints.attach import attach
from engram.config.config_file import write_config
from engram.errors import InputError
from engram.storage import staging
from engram.storage.folders import new_folder
from engram.storage.staging import clean, leftovers, stage
from support import tiny
from support.kills import killed_at

# Writes a folder, says so, and waits to be killed.
HANG = """
import sys, time
from pathlib import Path
from engram.storage.folders import new_folder
with new_folder(Path(sys.argv[1]), lambda _: set(), False) as part:
    (part / "half.txt").write_text("half")
    print("writing", flush=True)
    time.sleep(100)
"""


def own_files(folder: Path) -> set[str]:
    return {"result.txt", "half.txt"}


def write(folder: Path, text: str = "new", overwrite: bool = False) -> None:
    with new_folder(folder, own_files, overwrite) as part:
        (part / "result.txt").write_text(text)


@pytest.fixture
def base(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[0]


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HANG, str(out)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "writing\n"
        (half,) = tmp_path.iterdir()
        assert leftovers(out) == []
        clean(out)
        assert (half / "new" / "half.txt").read_text() == "half"
        process.send_signal(signal.SIGKILL)
    assert leftovers(out) == [half]
    write(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folders_that_only_look_like_ours_stay(tmp_path):
    user, mine = tmp_path / "user", tmp_path / "mine"
    for folder in (user, mine):
        folder.mkdir()
        (folder / "a.txt").write_text("mine")
    with stage(mine / "b", mine / "b") as place:
        (mine / staging.MARK).write_bytes((place / staging.MARK).read_bytes())
    for name in (".other.01234567.part", ".out.part", ".out.0123456z.part", "out.01234567.part"):
        (tmp_path / name).mkdir()
    (tmp_path / ".out.01234567.part").write_text("a file")
    # Without a mark, with one of another content, and links to one that has a mark.
    user.rename(tmp_path / ".out.12345678.part")
    (tmp_path / ".out.23456789.part").mkdir()
    (tmp_path / ".out.23456789.part" / staging.MARK).write_text("mine")
    (tmp_path / ".out.34567890.part").symlink_to(mine)
    (tmp_path / ".out.45678901.part").mkdir()
    (tmp_path / ".out.45678901.part" / staging.MARK).symlink_to(mine / staging.MARK)
    (tmp_path / ".out.45678901.part" / "old").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for overwrite in (False, True):
        write(tmp_path / "out", overwrite=overwrite)
    with pytest.raises(InputError, match="there already"):
        write(tmp_path / "out")
    assert set(tmp_path.rglob("*")) - set(before) == {
        tmp_path / "out",
        tmp_path / "out" / "result.txt",
    }
    assert set(before) <= set(tmp_path.rglob("*"))


def test_a_folder_that_was_about_to_be_replaced_is_put_back(tmp_path):
    out = tmp_path / "out"
    write(out, "before")
    left = killed_stage(out)
    out.rename(left / "old")  # as a kill between two renames leaves it
    (left / "new").mkdir()
    with pytest.raises(InputError, match="there already"):
        write(out)
    assert (out / "result.txt").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def killed_stage(out: Path) -> Path:
    place = out.with_name(f".{out.name}.01234567.part")
    os.close(staging.claim(place))
    return place


def test_a_killed_attach_leaves_nothing_for_the_next(base, tmp_path, forks):
    assert killed_at(20, tmp_path, lambda: tiny.attached_model(base, tmp_path / "out"))
    (left,) = tmp_path.glob(".out.*.part")
    write_config(tmp_path / "memory.yaml", tiny.memory_config())
    words = ["attach", base, "-c", "memory.yaml", "-o", "out", "--dry-run", "--json"]
    planned = forks.run(words, tmp_path)
    assert planned.code == 0, planned.stderr
    plan = json.loads(planned.stdout)["plan"]
    assert plan["removed"] == [str(left)]
    assert left.is_dir()
    tiny.attached_model(base, tmp_path / "out")
    written = {file["name"] for file in json.loads(planned.stdout)["files"]}
    there = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert there == written | set(plan["small_files"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory.yaml", "out"]
    assert engram.load(tmp_path / "out").config.engram["config"]["seed"] == 3


def test_a_disk_that_fills_while_attach_writes(base, tmp_path, forks):
    """A file may grow to a megabyte here; the table is larger."""
    write_config(tmp_path / "memory.yaml", tiny.memory_config(engram_table_size=[600_000] * 3))
    words = ["attach", base, "-c", "memory.yaml", "-o", "out", "--json"]
    done = forks.run(words, tmp_path, file_bytes=2**20)
    assert done.code == 5, done.stderr
    error = json.loads(done.stderr.splitlines()[-1])
    assert error["code"] == "does_not_fit"
    assert error["message"].startswith(f"{tmp_path / 'out'}: File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["memory.yaml"]


@pytest.mark.parametrize("link", [False, True])
def test_all_is_on_the_disk_before_it_appears(base, tmp_path, monkeypatch, link):
    synced, appeared, move = set(), [], Path.rename

    def sync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)

    def rename(path, target):
        if target == tmp_path / "out":
            inside = [path, *path.rglob("*")]
            written = [it for it in inside if it.is_dir() or it.stat().st_nlink == 1]
            assert [it for it in written if it.stat().st_ino not in synced] == []
            appeared.extend(it.name for it in written)
        move(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    attach.attach(base, tiny.memory_config(), tmp_path / "out", link=link)
    assert {"config.json", "engram_base", "README.md", "tokenizer.json"} <= set(appeared)
    assert ("model-00001-of-00001.safetensors" in appeared) != link
