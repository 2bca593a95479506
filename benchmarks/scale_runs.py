"""Runs a process to its end: seconds, memory of it and all its children, and its JSON.

The memory is what the kernel cannot take back: private and shared pages of all processes of the
tree, looked at every 20 ms. Pages of mapped files are left out, since they are the page cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INTERVAL_SECONDS = 0.02
_HELD = ("RssAnon:", "RssShmem:")
_ERROR_CHARACTERS = 2000


class FailedRunError(RuntimeError):
    """A process ended with another status than 0; the message has the end of its stderr."""


@dataclass(frozen=True)
class Run:
    """A process that has ended.

    Attributes:
        seconds: From its start to its end.
        held_bytes: Most memory of the process and its children at one moment.
        answer: The JSON that it printed.
    """

    seconds: float
    held_bytes: int
    answer: dict[str, Any]


def run(words: Sequence[str]) -> Run:
    """Run a process.

    Args:
        words: The program and its arguments; it prints one JSON object.

    Raises:
        FailedRunError: It failed.
    """
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors)
        watch = _Watch(process.pid)
        try:
            printed, _ = process.communicate()
        except BaseException:  # this process is to end, and so is that one
            process.kill()
            raise
        seconds = time.perf_counter() - started
        held_bytes = watch.stop()
        if process.returncode:
            errors.seek(0)
            told = errors.read().decode(errors="replace")[-_ERROR_CHARACTERS:]
            raise FailedRunError(
                f"{' '.join(words)} ended with status {process.returncode}: {told}"
            )
    return Run(seconds, held_bytes, json.loads(printed))


def engram(*words: str | Path) -> list[str]:
    """Return the words of an `engram` command that answers in JSON."""
    return [sys.executable, "-m", "engram_cli", *map(str, words), "--json", "-q"]


class _Watch:
    """A thread that looks at the memory of a tree of processes."""

    def __init__(self, root: int) -> None:
        self._root, self._most, self._is_over = root, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Stop looking, and return the most that was seen."""
        self._is_over.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        while not self._is_over.wait(_INTERVAL_SECONDS):
            self._most = max(self._most, sum(map(_held_bytes, _tree(self._root))))


def _tree(process: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield process
    for thread in Path(f"/proc/{process}/task").glob("*"):
        try:
            children = (thread / "children").read_text()
        except OSError:  # it has just ended
            continue
        for child in children.split():
            yield from _tree(int(child))


def _held_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(_HELD))
