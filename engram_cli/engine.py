"""Who does the work of a command on a text: this machine, or Ray."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import active_children
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING, Literal

from engram.errors import UsageError
from engram_cli.errors import INTERRUPTED
from engram_cli.output import Output

if TYPE_CHECKING:
    from engram.corpus.ray.ray_engine import RayEngine


def find_engine(
    engine: Literal["local", "ray"], address: str | None, workers: int, reads_stdin: bool
) -> AbstractContextManager[RayEngine | None]:
    """Return what works while a block runs; nothing is started before.

    Args:
        engine: Value of ``--engine``.
        address: Value of ``--address``.
        workers: CPUs of a Ray that is started here.
        reads_stdin: Whether the text comes from standard input.

    Raises:
        UsageError: The options exclude each other.
    """
    if engine == "local":
        if address is not None:
            raise UsageError(f"--address {address} is that of a Ray.", "Add --engine ray.")
        return nullcontext()
    if reads_stdin:
        raise UsageError(
            "Workers of Ray cannot read this command's standard input.",
            "Write it to a file first, or leave out --engine ray.",
        )
    from engram.corpus.ray.ray_engine import RayEngine

    return RayEngine(address, workers)


@contextmanager
def stopping_at_once(out: Output) -> Iterator[None]:
    """Answer Ctrl-C while a block runs: the first ends it, the second ends the process.

    What is on the disk after the second is what a kill leaves, which the next run puts right.
    """
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
            out.leave()
            os._exit(INTERRUPTED)
        is_stopping = True
        out.note_from_signal("Stopping.")
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        # Threads may still have to end after the block; a second Ctrl-C does not wait for them.
        if not is_stopping:
            signal.signal(signal.SIGINT, before)


def tell_engines(out: Output, sentences: Sequence[str]) -> None:
    """Tell the user what tokenised a text, and with ``-v`` why."""
    for sentence in sentences:
        what, _, why = sentence.partition("\n")
        out.note(what)
        if why:
            out.detail(why)


def tell_what_is_kept(out: Output, error: BaseException, folder: Path, reads_stdin: bool) -> None:
    """Tell the user whether a command that broke off can be resumed.

    Args:
        out: Where to.
        error: Why it broke off.
        folder: The folder that it was to write.
        reads_stdin: Whether the text came from standard input, which cannot be read again.
    """
    from engram.corpus.results.work_folder import is_resumable

    if not reads_stdin and is_resumable(folder):
        out.note("What is finished is kept: go on with --resume, or start over with --overwrite.")
    elif isinstance(error, KeyboardInterrupt):
        out.note("Nothing is kept, since nothing that can be resumed was finished: start over.")
