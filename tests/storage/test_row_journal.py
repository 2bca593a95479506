"""Rows with a redo log: whatever is written, committed or killed, the last commit is whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.errors import CorruptFileError, DoesNotFitError, InputError
from engram.storage import journaled_rows
from engram.storage.dirty_rows import DirtyRows
from engram.storage.journaled_rows import Extent
from engram.storage.row_journal import JOURNAL, Journal, recover

START, ROWS = 13, 77  # nothing is aligned to anything
WIDTHS = {"table": 24, "state": 4}
# Everything by which a commit changes a disk.
STEPS = ("pwrite", "fdatasync", "fsync", "ftruncate", "replace", "unlink")


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fdatasync", lambda descriptor: None)


@contextmanager
def stopped_before(number: int) -> Iterator[list[str]]:
    """Stop before the `number`-th step, and before every step after it; yields the steps."""
    steps: list[str] = []

    def counted(name: str, real: Callable) -> Callable:
        def step(*args, **kwargs):
            if len(steps) >= number:
                raise Killed
            steps.append(name)
            return real(*args, **kwargs)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, counted(name, getattr(os, name)))
        yield steps


def drawn(seed: int, count: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, width), dtype=np.uint8)


class Tables:
    """Two files of rows whose first and second part are two journals', and what they should hold.

    Attributes:
        now: The rows as they were last written, by file.
        committed: The rows as they were last committed.
    """

    def __init__(self, folder: Path, parts: int = 2) -> None:
        self.folder = folder
        bounds = [ROWS * part // parts for part in range(parts + 1)]
        self.ranges = list(pairwise(bounds))
        self.now = {name: drawn(7, ROWS, width) for name, width in WIDTHS.items()}
        for name, rows in self.now.items():
            (folder / name).write_bytes(b"h" * START + rows.tobytes() + b"tail")
        self.committed = {name: rows.copy() for name, rows in self.now.items()}
        self.commits = 0
        self.journals: list[Journal] = []
        self.open()

    def open(self) -> None:
        self.journals = [Journal(self.folder, part) for part in range(len(self.ranges))]
        self.rows = {
            (name, part): journal.rows(
                name, Extent(self.folder / name, START, first, stop - first, WIDTHS[name])
            )
            for part, ((first, stop), journal) in enumerate(
                zip(self.ranges, self.journals, strict=True)
            )
            for name in WIDTHS
        }

    def write(self, name: str, ids: np.ndarray, seed: int) -> None:
        values = drawn(seed, len(ids), WIDTHS[name])
        self.now[name][ids] = values
        for part, (first, stop) in enumerate(self.ranges):
            own = (ids >= first) & (ids < stop)
            self.rows[name, part].write(ids[own] - first, values[own])

    def read(self, name: str, ids: np.ndarray) -> np.ndarray:
        out = np.empty((len(ids), WIDTHS[name]), dtype=np.uint8)
        for part, (first, stop) in enumerate(self.ranges):
            own = (ids >= first) & (ids < stop)
            some = np.empty((int(own.sum()), WIDTHS[name]), dtype=np.uint8)
            self.rows[name, part].ask(ids[own] - first)
            self.rows[name, part].read(ids[own] - first, some)
            out[own] = some
        return out

    def commit(self) -> None:
        payload = {"step": self.commits + 1}
        if len(self.journals) == 1:
            self.journals[0].commit(payload)
        else:
            for journal in self.journals:
                journal.prepare()
            self.journals[1].mark(payload)
            for journal in self.journals:
                journal.copy()
            self.journals[0].finish()
            for journal in self.journals:
                journal.forget()
        self._is_committed()

    def _is_committed(self) -> None:
        self.commits += 1
        self.committed = {name: rows.copy() for name, rows in self.now.items()}

    def close(self) -> None:
        for journal in self.journals:
            journal.close()

    def recover(self) -> None:
        """Recover after a kill; the files hold the last commit, or the one that was made."""
        self.close()
        payload = recover(self.folder)
        step = 0 if payload is None else payload["step"]
        assert step in (self.commits, self.commits + 1)
        if step > self.commits:
            self._is_committed()
        self.now = {name: rows.copy() for name, rows in self.committed.items()}
        self.check_files()
        assert not [*(self.folder / JOURNAL).glob("*.shadow")]
        self.open()

    def check_files(self) -> None:
        for name, rows in self.committed.items():
            assert (self.folder / name).read_bytes() == b"h" * START + rows.tobytes() + b"tail"

    def check_rows(self) -> None:
        every = np.arange(ROWS)
        for name, rows in self.now.items():
            assert np.array_equal(self.read(name, every), rows)


@pytest.fixture(params=[1, 2], ids=["alone", "two parts"])
def tables(request, tmp_path):
    made = Tables(tmp_path, request.param)
    yield made
    made.close()


IDS = st.lists(st.integers(0, ROWS - 1), unique=True).map(lambda ids: np.array(ids, dtype=np.int64))
ACTIONS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from([*WIDTHS]), IDS, st.integers(0, 2**32)),
    st.tuples(st.just("read"), st.sampled_from([*WIDTHS]), IDS),
    st.tuples(st.just("commit")),
    st.tuples(st.just("kill"), st.integers(0, 60)),
)


@settings(max_examples=60, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=12), parts=st.sampled_from([1, 2, 3]))
def test_rows_are_those_last_written_whatever_is_killed(actions, parts):
    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(Path(folder), parts)
        for action, *values in actions:
            if action == "write":
                tables.write(*values)
            elif action == "read":
                name, ids = values
                assert np.array_equal(tables.read(name, ids), tables.now[name][ids])
            elif action == "commit":
                tables.commit()
                tables.check_files()
            else:
                try:
                    with stopped_before(*values):
                        tables.commit()
                except Killed:
                    tables.recover()
            tables.check_rows()
        tables.recover()
        tables.close()


def test_a_kill_at_any_step_of_a_commit_loses_it_or_keeps_it_whole(tables):
    number, kept = 0, []
    while True:
        tables.write("table", np.arange(number % 3, ROWS, 3), seed=number)
        tables.write("state", np.array([5, 4, 70]), seed=number)
        before = tables.commits
        try:
            with stopped_before(number) as steps:
                tables.commit()
            break
        except Killed:
            tables.recover()
            kept.append(tables.commits > before)
            tables.check_rows()
        number += 1
    # Before the marker was renamed nothing is kept, afterwards everything.
    assert kept == sorted(kept)
    assert kept.count(False) == steps.index("replace") + 1
    assert {True, False} <= set(kept)


def test_a_recovery_that_is_killed_is_recovered(tables):
    tables.write("table", np.arange(0, ROWS, 2), seed=1)
    with pytest.raises(Killed), stopped_before(10**6):
        _commit_and_die(tables)
    tables._is_committed()
    tables.close()
    number = 0
    while True:
        try:
            with stopped_before(number):
                recover(tables.folder)
            break
        except Killed:
            number += 1
    assert number > 10
    tables.check_files()
    tables.open()


def _commit_and_die(tables: Tables) -> None:
    """Commit as far as the marker."""
    for journal in tables.journals:
        journal.prepare()
    tables.journals[0].mark({"step": tables.commits + 1})
    raise Killed


def test_what_a_commit_relies_on_is_on_the_disk_before_it(tmp_path):
    """The order in which files are synced, without which a power cut could tear a commit."""
    tables, events = Tables(tmp_path, 1), []

    def name_of(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    def replace(source, target):
        events.append(f"-> {Path(target).name}")
        real_replace(source, target)

    def cut(file, size):
        events.append(f"cut {name_of(file)}")
        real_cut(file, size)

    real_replace, real_cut = os.replace, os.ftruncate
    with pytest.MonkeyPatch.context() as patch:
        for sync in ("fsync", "fdatasync"):
            patch.setattr(os, sync, lambda file: events.append(f"sync {name_of(file)}"))
        patch.setattr(os, "replace", replace)
        patch.setattr(os, "ftruncate", cut)
        tables.write("table", np.array([3]), seed=3)
        tables.write("state", np.array([3]), seed=3)
        tables.commit()
    shadows = {"sync table.0.shadow", "sync table.0.dirty", "sync state.0.shadow"}
    mark, done = events.index("-> redo.json"), events.index("-> committed.json")
    assert shadows <= set(events[:mark])
    assert {"sync redo.json.new", f"sync {JOURNAL}", f"sync {tmp_path.name}"} <= set(events[:mark])
    assert events[mark + 1] == f"sync {JOURNAL}"
    assert {"sync table", "sync state"} <= set(events[mark:done])
    assert events[done + 1] == f"sync {JOURNAL}"
    assert all(not event.startswith("cut") for event in events[: done + 1])
    tables.close()


def test_an_error_of_the_caller_commits_nothing_and_loses_nothing(tmp_path):
    tables = Tables(tmp_path, 1)
    tables.write("table", np.array([1, 2]), seed=1)

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        tables.journals[0].commit({"step": 1}, fail)
    tables.check_files()
    tables.write("table", np.array([2, 3]), seed=2)
    tables.check_rows()
    assert tables.journals[0].dirty_rows == 3
    written = []
    tables.journals[0].commit({"step": 1}, lambda: written.append(1))
    tables._is_committed()
    tables.check_files()
    assert written == [1]
    assert tables.journals[0].committed == {"step": 1}
    assert tables.journals[0].dirty_rows == 0
    tables.close()


def test_a_full_disk_is_told_and_the_last_commit_stays(tmp_path, monkeypatch):
    tables = Tables(tmp_path, 1)
    tables.write("table", np.arange(5), seed=1)
    tables.commit()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        with pytest.raises(DoesNotFitError, match="table: No space left on device"):
            tables.rows["table", 0].write(np.arange(9), drawn(2, 9, 24))
    tables.check_rows()
    tables.write("table", np.arange(9), seed=3)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DoesNotFitError):
            tables.commit()
    tables.check_files()
    tables.check_rows()
    with monkeypatch.context() as patch:
        patch.setattr(journaled_rows, "copy_rows", lambda *_: full())
        with pytest.raises(OSError, match="No space"):
            tables.commit()
    # The commit has been made: nothing may change before it is copied.
    with pytest.raises(InputError, match="cannot be changed while a commit"):
        tables.write("table", np.arange(2), seed=4)
    with pytest.raises(InputError, match="holds changes of a process"):
        tables.journals[0].commit({"step": 9})
    tables.now["table"][:9] = drawn(3, 9, 24)
    tables.recover()
    assert tables.commits == 2
    tables.close()


def _marked(folder: Path) -> Path:
    """Make a journal whose marker is there; returns its folder."""
    tables = Tables(folder, 1)
    tables.write("table", np.arange(0, ROWS, 5), seed=1)
    with pytest.raises(Killed):
        _commit_and_die(tables)
    tables.close()
    return folder / JOURNAL


def _cut(path: Path, by: int) -> None:
    os.truncate(path, path.stat().st_size - by)


def _bent(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda place: _cut(place / "redo.json", 9), "redo.json"),
        (lambda place: (place / "redo.json").write_bytes(b"\0" * 99), "redo.json"),
        (lambda place: _bent(place / "redo.json", schema="engram.journal/2"), "redo.json"),
        (lambda place: _bent(place / "redo.json", parts={"../x.dirty": 1}), "redo.json"),
        (lambda place: _bent(place / "redo.json", parts={"y.dirty": 1}), "y.dirty"),
        (lambda place: _cut(place / "table.0.dirty", 1), "table.0.dirty"),
        (lambda place: (place / "table.0.dirty").unlink(), "table.0.dirty"),
        (lambda place: _cut(place / "table.0.shadow", 1), "table.0.shadow"),
        (lambda place: _cut(place.parent / "table", 99), "table"),
        (lambda place: (place.parent / "table").write_bytes(b"x" * 4000), "table"),
    ],
)
def test_a_torn_or_foreign_journal_is_refused_by_name(tmp_path, damage, named):
    place = _marked(tmp_path)
    damage(place)
    held = (tmp_path / "table").read_bytes()
    with pytest.raises(CorruptFileError, match=f"{named}") as told:
        recover(tmp_path)
    assert told.value.hint
    assert (tmp_path / "table").read_bytes() == held
    with pytest.raises(InputError, match="holds changes"):
        Journal(tmp_path)


def test_a_moved_folder_is_recovered_and_another_one_stays(tmp_path):
    (tmp_path / "here").mkdir()
    _marked(tmp_path / "here")
    held = (tmp_path / "here" / "table").read_bytes()
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert recover(tmp_path / "there") == {"step": 1}
    assert (tmp_path / "here" / "table").read_bytes() == held
    assert (tmp_path / "there" / "table").read_bytes() != held


def test_a_journal_has_one_user_and_files_of_its_own_folder(tmp_path):
    tables = Tables(tmp_path, 1)
    with pytest.raises(InputError, match="Another process"):
        recover(tmp_path)
    with pytest.raises(InputError, match="holds changes"):
        Journal(tmp_path).rows("table", Extent(tmp_path / "table", START, 0, ROWS, 24))
    outside = tmp_path.with_name("outside")
    outside.write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="is not in"):
        tables.journals[0].rows("x", Extent(outside, 0, 0, 4, 4))
    with pytest.raises(IndexError):
        tables.rows["table", 0].write(np.array([ROWS]), drawn(0, 1, 24))
    with pytest.raises(IndexError):
        tables.rows["table", 0].read(np.array([-1]), drawn(0, 1, 24))
    tables.close()
    assert recover(tmp_path / "nowhere") is None
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / JOURNAL).write_text("")
    with pytest.raises(CorruptFileError, match="not a folder"):
        Journal(tmp_path / "file")


@given(count=st.integers(1, 5000), adds=st.integers(0, 12), seed=st.integers(0))
@settings(max_examples=30, deadline=None)
def test_dirty_rows_have_slots_in_the_order_in_which_they_are_added(count, adds, seed):
    chance, dirty = np.random.default_rng(seed), DirtyRows(count)
    expected, every = np.empty(0, dtype=np.int64), np.arange(count)
    for _ in range(adds):
        some = np.flatnonzero(chance.random(count) < chance.random() ** 3)
        new = some[~dirty.among(some)]
        assert np.array_equal(new, np.setdiff1d(some, expected))
        dirty.add(new)
        expected = np.concatenate([expected, new])
        assert len(dirty) == len(expected)
        assert np.array_equal(dirty.by_slot(), expected)
        assert np.array_equal(every[dirty.among(every)], np.sort(expected))
        asked = chance.permutation(len(expected))
        assert np.array_equal(dirty.slots(expected[asked]), asked)
    dirty.clear()
    assert not len(dirty)
    assert not dirty.among(every).any()
