"""Rows with a redo log whose process is killed at any instant: the last commit is always whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from engram.storage.row_journal import recover
from support import row_writer
from support.row_writer import ROWS, START, WIDTHS, expected


def killed_after(folder: Path, seconds: float) -> int:
    """Have a process write and commit for a while; return the last commit that it told of."""
    process = subprocess.Popen(
        [sys.executable, row_writer.__file__, str(folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    told = [process.stdout.readline()]  # it has started
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    told += process.stdout.readlines()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return int(next(line for line in reversed(told) if line.endswith(b"\n")))


def kill_and_recover(folder: Path, times: int) -> None:
    row_writer.make(folder)
    chance, commits = random.Random(3), []
    for _ in range(times):
        told = killed_after(folder, chance.uniform(0, 0.1))
        payload = recover(folder)
        assert payload is not None
        commit = payload["commit"]
        assert commit in (told, told + 1)
        for name, width in WIDTHS.items():
            held = np.fromfile(folder / name, dtype=np.uint8, offset=START).reshape(ROWS, width)
            assert np.array_equal(held, np.repeat(expected(commit)[:, None], width, axis=1))
        commits.append(commit)
    assert commits == sorted(set(commits))


def test_a_few_kills_leave_the_last_commit_whole(tmp_path):
    kill_and_recover(tmp_path, 3)


@pytest.mark.torture
def test_many_kills_leave_the_last_commit_whole(tmp_path):
    kill_and_recover(tmp_path, 20)
