"""Writers on a disk that fills up: exit 5, nothing torn; with more room the run ends as ever."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path

import pytest

from support.forks import Forks
from torture.trial import Trial, output
from torture.writers import WRITERS, Writer, seen

pytestmark = pytest.mark.torture

_TIMES, _ROOM_KIB = 10, 2**18
_BY_NAME = [pytest.param(writer, id=writer.name) for writer in WRITERS]


def fill_and_repeat(writer: Writer, forks: Forks, inputs: Path, folder: Path) -> None:
    trial = Trial(writer, forks, inputs, folder)
    chance = random.Random(zlib.crc32(f"{writer.name} on a full disk".encode()))
    needed_kib = sum(
        path.stat().st_size // 1024 + 4 for path in (folder / "fresh").rglob("*") if path.is_file()
    )
    for number in range(_TIMES):
        cwd = trial.folder(f"disk-{number}")
        # From no room at all to what the result takes, often where only the last files miss it.
        kib = 4 + int(needed_kib * (number / (_TIMES - 1)) ** 0.5)
        if forks.mounts and "--link" not in writer.words:
            with forks.disk(cwd, _ROOM_KIB if writer.older else kib) as disk:
                before = {}
                if writer.older and chance.random() < 0.5:
                    trial.replace(cwd)
                    before = seen(forks.seen(cwd))
                if writer.older:
                    used = sum(4 + p.stat().st_size // 1024 for p in forks.seen(cwd).rglob("*"))
                    disk.resize(max(4, used + kib))
                _fill(trial, cwd, before, lies=True)
                disk.resize(_ROOM_KIB)
                _repeat(trial, cwd, chance)
        else:
            _fill(trial, cwd, {}, file_bytes=kib * 1024)
            _repeat(trial, cwd, chance)


def _fill(trial: Trial, cwd: Path, before: dict[str, str], **harm: object) -> None:
    flags = ["--overwrite"] if before else []
    done = trial.run(cwd, "--json", *flags, **harm)
    assert not done.timed_out
    assert not done.orphans
    assert done.code in (0, 5), (harm, done.stderr)
    there = output(seen(trial.forks.seen(cwd)))
    assert there == output(trial.whole if done.code == 0 else before), "a torn result"
    if done.code == 5:
        error = json.loads(done.stderr.splitlines()[-1])
        assert error["code"] == "does_not_fit"
        assert "out" in error["message"], error


def _repeat(trial: Trial, cwd: Path, chance: random.Random) -> None:
    trial.again(cwd, chance)
    found, whole = seen(trial.forks.seen(cwd)), trial.whole
    assert output(found) == output(whole)
    # What the cache holds may be less: to keep nothing in it is no error.
    assert not {name for name in found.keys() - whole.keys() if not name.startswith("cache")}
    assert not {name for name in found.keys() - whole.keys() if name.endswith(".part")}


@pytest.mark.parametrize("writer", _BY_NAME)
def test_full_disks_end_with_5_and_leave_nothing_torn(writer, forks, inputs, tmp_path):
    fill_and_repeat(writer, forks, inputs, tmp_path)
