"""A process that writes rows and commits them until it is killed: ``row_writer.py FOLDER``.

Every row of a commit is made of the commit's number, so that a folder tells of which commit it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from engram.storage.journaled_rows import Extent
from engram.storage.row_journal import Journal, recover

START, ROWS = 100, 5000
WIDTHS = {"table": 256, "state": 4}


def rows_of_commit(commit: int) -> np.ndarray:
    """Numbers of the rows that a commit changes."""
    chance = np.random.default_rng(commit)
    return chance.choice(ROWS, int(chance.integers(1, 800)), replace=False)


def expected(commit: int) -> np.ndarray:
    """The first byte of every row after so many commits."""
    values = np.zeros(ROWS, dtype=np.uint8)
    for number in range(1, commit + 1):
        values[rows_of_commit(number)] = number % 251
    return values


def make(folder: Path) -> None:
    """Make files of zeros."""
    for name, width in WIDTHS.items():
        (folder / name).write_bytes(bytes(START + ROWS * width))


def main(folder: Path) -> None:
    last = recover(folder)
    commit = 0 if last is None else last["commit"]
    journal = Journal(folder)
    files = {
        name: journal.rows(name, Extent(folder / name, START, 0, ROWS, width))
        for name, width in WIDTHS.items()
    }
    while True:
        commit += 1
        ids = rows_of_commit(commit)
        for half in np.array_split(ids, 2):
            for name, width in WIDTHS.items():
                rows = np.full((len(half), width), commit % 251, dtype=np.uint8)
                files[name].write(half, rows)
        # The parent knows of a commit when it has been made.
        journal.commit({"commit": commit})
        print(commit, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
