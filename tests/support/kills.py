"""Kills a writer at each of its file-system events in turn, in a fork of this process."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"}


def killed_at(number: int, root: Path, action: Callable[[], object]) -> bool:
    """Run an action in a fork that is killed before its `number`-th event under a folder.

    Returns:
        Whether it was killed; False when it ended before.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that a fork leaves behind
        child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, args: tuple) -> None:
            nonlocal seen
            if event not in EVENTS and not (event == "open" and is_write(args)):
                return
            path = str(args[0])
            if str(root) in path or not path.startswith("/"):
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def is_write(args: tuple) -> bool:
    """Whether the arguments of an `open` event are those of a file that is written."""
    _, mode, flags = args
    if isinstance(mode, str):
        return any(letter in mode for letter in "wxa+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
