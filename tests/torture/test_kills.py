"""Writers that are killed: nothing torn appears, the next run ends as an uninterrupted one."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest

from support.forks import KILL, Forks
from torture.trial import Trial, output
from torture.writers import WRITERS, Writer, seen

_FEW, _MANY = 4, 20
_BY_NAME = [pytest.param(writer, id=writer.name) for writer in WRITERS]


def kill_and_repeat(writer: Writer, forks: Forks, inputs: Path, folder: Path, times: int) -> None:
    trial = Trial(writer, forks, inputs, folder)
    chance = random.Random(zlib.crc32(writer.name.encode()))
    wholes = [output(trial.whole), {}]
    for number in range(times):
        cwd, more, allowed = trial.folder(f"kill-{number}"), [], wholes
        if writer.older and chance.random() < 0.5:
            trial.replace(cwd)
            more = ["--overwrite"]
            allowed = [*wholes, output(seen(cwd))]
        if chance.random() < 0.7:
            harm = {"kill_at": chance.randint(1, trial.events)}
        else:
            harm = {"signals": [(chance.uniform(0.02, trial.seconds), KILL)]}
        done = trial.run(cwd, *more, **harm)
        assert done.code in (-KILL, 0), (harm, done.stderr)
        assert not done.orphans, harm
        assert output(seen(cwd)) in allowed, f"a torn result after {harm}"
        trial.again(cwd, chance)
        assert seen(cwd) == trial.whole, f"other files than without {harm}"


@pytest.mark.parametrize("writer", [it for it in _BY_NAME if "-j 2" not in it.id])
def test_a_few_kills_leave_nothing_torn_and_nothing_over(writer, forks, inputs, tmp_path):
    kill_and_repeat(writer, forks, inputs, tmp_path, _FEW)


@pytest.mark.torture
@pytest.mark.parametrize("writer", _BY_NAME)
def test_many_kills_leave_nothing_torn_and_nothing_over(writer, forks, inputs, tmp_path):
    kill_and_repeat(writer, forks, inputs, tmp_path, _MANY)
