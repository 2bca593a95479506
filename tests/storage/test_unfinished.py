"""Long work that was killed is continued to the same bytes, and nothing of another's is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import pytest

from engram.errors import InputError, LayoutError
from engram.storage import staging, unfinished
from engram.storage.unfinished import JOURNAL, move_in, place_beside

CHUNKS = [bytes([value]) * 1000 for value in range(20)]
JOB = {"inputs": {"a": [1, 2]}, "files": {"x": "digest"}}
KILLED = """
import os, signal, sys
from pathlib import Path
from engram.storage import unfinished
unfinished.SYNC_BYTES = 3000
target, job, stop = Path(sys.argv[1]), eval(sys.argv[2]), int(sys.argv[3])
def make(value):
    if value == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    return bytes([value]) * 1000
with unfinished.unfinished(target, job, resume=False, overwrite=True) as place:
    makers = [lambda value=value: make(value) for value in range(20)]
    place.write("one", b"head", makers[:10], lambda size: None)
    place.write("two", b"head", makers[10:], lambda size: None)
"""


class Noted:
    """Notes of chunks that were made: each once, whatever was made again."""

    def __init__(self):
        self.made, self.new = set(), []

    def make(self, value):
        if value not in self.made:
            self.new.append(value)
        self.made.add(value)
        return CHUNKS[value]

    def take(self):
        taken, self.new = self.new, []
        return taken

    def restore(self, taken):
        self.made |= set(taken)


def write(target, *, notes=None, stop=None, resume=False, overwrite=False, digest=None):
    """Write two files of ten chunks; steps are returned."""
    steps, notes = [], notes or Noted()

    def make(value):
        if value == stop:
            raise KeyboardInterrupt
        return notes.make(value)

    with unfinished.unfinished(target, JOB, notes, resume=resume, overwrite=overwrite) as place:
        for name, values in (("one", range(10)), ("two", range(10, 20))):
            makers = [partial(make, value) for value in values]
            place.write(name, b"head", makers, steps.append, digest)
        move_in(place, None, target)
    return steps


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(unfinished, "SYNC_BYTES", 3000)


def is_whole(target):
    files = [(target / name).read_bytes() for name in ("one", "two")]
    return files == [b"head" + b"".join(CHUNKS[:10]), b"head" + b"".join(CHUNKS[10:])]


@pytest.mark.parametrize("stop", [5, 9, 10, 13, 19])
def test_a_killed_process_is_continued_to_the_same_bytes(tmp_path, stop):
    target = tmp_path / "out"
    code = [sys.executable, "-c", KILLED, str(target), repr(JOB), str(stop)]
    assert subprocess.run(code, check=False).returncode == -signal.SIGKILL
    assert not target.exists()
    steps = write(target, resume=True)
    assert sum(steps) == 20_000
    assert len(steps) < 20
    assert is_whole(target)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_that_has_become_shorter_is_begun_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", stop=18)
    os.truncate(place_beside(tmp_path / "out") / staging.NEW / "one", 700)
    write(tmp_path / "out", resume=True)
    assert is_whole(tmp_path / "out")


def test_a_process_that_is_killed_while_results_move_leaves_nothing_to_continue(
    tmp_path, monkeypatch
):
    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(staging, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "out")
    assert is_whole(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "mine")
    write(tmp_path / "out", resume=True)
    assert is_whole(tmp_path / "out")


def test_another_version_of_the_toolkit_does_not_continue(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", stop=18)
    monkeypatch.setattr(unfinished, "__version__", "99")
    with pytest.raises(InputError, match="version of the toolkit"):
        write(tmp_path / "out", resume=True)


def test_a_digest_takes_every_byte_once(tmp_path):
    target, taken = tmp_path / "out", []
    with pytest.raises(KeyboardInterrupt):
        write(target, stop=17)
    write(target, resume=True, digest=lambda block: taken.append(bytes(block)))
    assert b"".join(taken) == b"head" + b"".join(CHUNKS[:10]) + b"head" + b"".join(CHUNKS[10:])


def test_notes_of_what_was_written_come_back(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", stop=12)
    notes = Noted()
    write(tmp_path / "out", notes=notes, resume=True)
    assert notes.made == set(range(20))


def test_a_line_that_was_cut_does_not_count(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", stop=17)
    journal = place_beside(tmp_path / "out") / JOURNAL
    content = journal.read_bytes()
    journal.write_bytes(content[:-7])
    write(tmp_path / "out", resume=True)
    assert is_whole(tmp_path / "out")


def test_an_unfinished_run_is_continued_or_discarded_only_when_asked(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write(target, stop=8)
    with pytest.raises(InputError, match="unfinished run"):
        write(target)
    hidden = place_beside(target)
    journal = hidden / JOURNAL
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([json.dumps({**JOB, "files": {}}), *lines[1:]]))
    with pytest.raises(InputError, match="started with other files"):
        write(target, resume=True)
    assert len(write(target, overwrite=True)) == 20
    assert is_whole(target)


def test_short_work_and_hopeless_errors_leave_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", stop=1)
    assert list(tmp_path.iterdir()) == []

    class Hopeless(Noted):
        def make(self, value):
            if value == 15:
                raise LayoutError("never")
            return super().make(value)

    with pytest.raises(LayoutError):
        write(tmp_path / "out", notes=Hopeless())
    assert list(tmp_path.iterdir()) == []


def stop_while_replacing(target):
    with unfinished.unfinished(target, JOB, resume=False, overwrite=True) as place:
        place.write("one", b"", [partial(bytes, 10)], lambda size: None)
        target.rename(place.folder.parent / staging.OLD)
        raise KeyboardInterrupt


def test_results_that_were_about_to_be_replaced_come_back(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "precious").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        stop_while_replacing(target)
    assert (target / "precious").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@contextmanager
def locked(hidden):
    descriptor = staging.claim(hidden)
    try:
        yield
    finally:
        os.close(descriptor)


def test_another_process_and_a_folder_of_the_users_are_left_alone(tmp_path):
    target = tmp_path / "out"
    hidden = place_beside(target)
    with locked(hidden), pytest.raises(InputError, match="Another process"):
        write(target)
    staging.remove(hidden)
    hidden.mkdir()
    (hidden / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="in the way"):
        write(target, overwrite=True)
    assert (hidden / "mine.txt").read_text() == "precious"
