"""Two Ctrl-C at random moments: the prompt is back soon, and --resume ends as ever."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest

from support.forks import INTERRUPT, Forks
from torture.trial import Trial, output
from torture.writers import WRITERS, Writer, seen

pytestmark = pytest.mark.torture

_TIMES = 20
_SECONDS = 3.0
_BY_NAME = [
    pytest.param(writer, id=writer.name)
    for writer in WRITERS
    if writer.name in ("corpus build", "corpus build -j 2", "hash -o", "hash -o -j 2")
]


def interrupt_and_resume(writer: Writer, forks: Forks, inputs: Path, folder: Path) -> None:
    trial = Trial(writer, forks, inputs, folder)
    chance = random.Random(zlib.crc32(f"{writer.name} interrupted".encode()))
    interrupted = 0
    for number in range(_TIMES):
        cwd = trial.folder(f"interrupt-{number}")
        first = chance.uniform(0, trial.seconds)
        second = first + chance.uniform(0.01, 1)
        done = trial.run(cwd, signals=[(first, INTERRUPT), (second, INTERRUPT)])
        where = f"interrupts after {first:.3f} and {second:.3f} s"
        assert done.code in (0, 130), (where, done.code, done.stderr)
        assert done.seconds < (second if done.code == 130 else trial.seconds + 1) + _SECONDS, where
        assert "Traceback" not in done.stderr, (where, done.stderr)
        assert not done.orphans, where
        interrupted += done.code == 130
        done = trial.run(cwd, "--resume")
        assert done.code == 0, (where, done.stderr)
        assert output(seen(cwd)) == output(trial.whole), where
        assert seen(cwd) == trial.whole, where
    assert interrupted, "every run was over before its interrupt"


@pytest.mark.parametrize("writer", _BY_NAME)
def test_double_interrupts_end_at_once_and_are_resumed(writer, forks, inputs, tmp_path):
    interrupt_and_resume(writer, forks, inputs, tmp_path)
