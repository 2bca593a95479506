"""Chooses the engine that does a command's work on a text: this machine, or Ray."""

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
    """Provide the engine while the block runs; nothing is started before.

    Args:
        engine: Value of ``--engine``.
        address: Value of ``--address``.
        workers: CPUs of a Ray instance that is started here.
        reads_stdin: Whether the text comes from standard input.

    Raises:
        UsageError: The options exclude each other.
    """
    if engine == "local":
        if address is not None:
            raise UsageError(f"--address {address} is for Ray.", "Add --engine ray.")
        return nullcontext()
    if reads_stdin:
        raise UsageError(
            "Ray workers cannot read this command's standard input.",
            "Write it to a file first, or leave out --engine ray.",
        )
    from engram.corpus.ray.ray_engine import RayEngine

    return RayEngine(address, workers)


@contextmanager
def stopping_at_once(out: Output) -> Iterator[None]:
    """Handle Ctrl-C while a block runs: the first ends the block, the second the process.

    The second leaves on disk what a kill leaves, which the next run cleans up.
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
        # Threads may outlive the block; a second Ctrl-C does not wait for them.
        if not is_stopping:
            signal.signal(signal.SIGINT, before)


def tell_engines(out: Output, sentences: Sequence[str]) -> None:
    """Print the tokenising library, and with ``-v`` the reason for it."""
    for sentence in sentences:
        what, _, why = sentence.partition("\n")
        out.note(what)
        if why:
            out.detail(why)


def tell_what_is_kept(out: Output, error: BaseException, folder: Path, reads_stdin: bool) -> None:
    """Print whether an interrupted command can be resumed.

    Args:
        out: Prints the note.
        error: The reason for the interruption.
        folder: The output folder.
        reads_stdin: Whether the text came from standard input, which cannot be read again.
    """
    from engram.corpus.results.work_folder import is_resumable

    if not reads_stdin and is_resumable(folder):
        out.note("Finished work is kept: continue with --resume, or start over with --overwrite.")
    elif isinstance(error, KeyboardInterrupt):
        out.note("Nothing is kept, since nothing resumable was finished: start over.")
