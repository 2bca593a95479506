"""A file or a folder whose writer is killed at any event: the next puts it right."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from engram.errors import InputError
from engram.storage.files import atomic_write
from engram.storage.folders import new_folder
from support.kills import killed_at


def write_file(out, overwrite):
    with atomic_write(out, "w") as file:
        file.write("one\n")


def write_folder(out, overwrite):
    with new_folder(out, lambda _: {"a", "b"}, overwrite) as new:
        (new / "a").write_text("one")
        (new / "b").mkdir()
        (new / "b" / "c").write_text("two")


def contents(out):
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    return {path.relative_to(out): path.read_bytes() for path in files}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_kill_at_every_event_is_put_right_by_the_next_run(tmp_path, write, overwrite):
    write(tmp_path / "whole", False)
    expected = contents(tmp_path / "whole")
    number, was_killed = 0, True
    while was_killed:
        number += 1
        results = tmp_path / f"{number}"
        results.mkdir()
        out = results / "out"
        if overwrite:
            write(out, False)
        was_killed = killed_at(number, results, lambda out=out: write(out, overwrite))
        is_refused = write is write_folder and out.exists() and not overwrite
        with pytest.raises(InputError, match="already") if is_refused else nullcontext():
            write(out, overwrite)
        assert contents(out) == expected, number
        assert [path.name for path in results.iterdir()] == ["out"], number
    assert number > 5
