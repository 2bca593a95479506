"""Answers Ctrl-C: the first ends a command, the second its process, and none is lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING

from engram_cli.errors import INTERRUPTED

if TYPE_CHECKING:
    from engram_cli.output import Output

_AGAIN_SECONDS = 0.01
# Shows the cursor again, which progress bars hide.
_SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def stopping_at_once(out: Output) -> Iterator[None]:
    """Handle Ctrl-C while a block runs: the first ends the block, the second the process.

    The second leaves on disk what a kill leaves, which the next run cleans up.
    """
    from multiprocessing import active_children  # 3 ms, which `engram --help` does not need

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or current_thread() is not main_thread():
        yield
        return
    is_stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping:
            for worker in active_children():
                worker.kill()
            if sys.stderr.isatty():
                _write_at_once(f"{_SHOW_CURSOR}\n")
            os._exit(INTERRUPTED)
        is_stopping = True
        if not out.quiet:
            _write_at_once("Stopping.\n")
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        # Threads may outlive the block; a second Ctrl-C does not wait for them.
        if not is_stopping:
            signal.signal(signal.SIGINT, before)


class Stopping:
    """Whether Ctrl-C asked a run to save and stop.

    Attributes:
        wanted: Whether it did.
        waits: Whether there is a step to wait for: else Ctrl-C ends the command as always.
    """

    def __init__(self) -> None:
        self.wanted = self.waits = False


@contextmanager
def stopping_after_step(out: Output) -> Iterator[Stopping]:
    """Handle Ctrl-C while a block trains: the first ends the step, the second the process.

    The second leaves on disk what a kill leaves: the last checkpoint.
    """
    stopping = Stopping()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or current_thread() is not main_thread():
        yield stopping
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopping.waits:
            raise KeyboardInterrupt
        if stopping.wanted:
            if sys.stderr.isatty():
                _write_at_once(f"{_SHOW_CURSOR}\n")
            os._exit(INTERRUPTED)
        stopping.wanted = True
        if not out.quiet:
            _write_at_once("Stopping after this step; Ctrl-C again stops at once.\n")

    signal.signal(signal.SIGINT, stop)
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGINT, before)


def interrupts_end_with(code: int) -> None:
    """Let Ctrl-C end the process at once, with this code: the command is over."""
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_ours and current_thread() is main_thread():
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(code))


def _write_at_once(text: str) -> None:
    """Write to stderr from a signal handler, which may have interrupted another print."""
    with suppress(OSError, ValueError):  # the reader is gone
        os.write(sys.stderr.fileno(), text.encode())


@contextmanager
def no_interrupt_lost() -> Iterator[None]:
    """Raise a Ctrl-C again that struck while Python ran a callback.

    Python prints and forgets an exception in one (of a weak reference, in ``__del__``, in the
    garbage collector), since there is nobody to catch it: the command would go on.
    """
    before = sys.unraisablehook

    def hear(event: sys.UnraisableHookArgs) -> None:
        if not issubclass(event.exc_type, KeyboardInterrupt):
            before(event)
            return
        # A signal, since it also ends a wait; and later, since now there is still nobody.
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)

    sys.unraisablehook = hear
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = before
