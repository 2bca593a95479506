"""Chooses the engine that does a command's work on a text: this machine, or Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engram.errors import UsageError
from engram_cli.corpus_text import skipped_text
from engram_cli.interrupts import stopping_at_once
from engram_cli.output import Output

if TYPE_CHECKING:
    from engram.corpus.ray.ray_engine import RayEngine
    from engram.corpus.results.stored_corpus import Notes

WORK_IS_KEPT = "Finished work is kept: continue with --resume, or start over with --overwrite."


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
def working_on(out: Output, folder: Path | None, reads_stdin: bool) -> Iterator[None]:
    """Answer Ctrl-C while a block runs, see `stopping_at_once`, and say what is kept if it fails.

    Args:
        out: Where to.
        folder: The folder that the block writes; None when it writes none.
        reads_stdin: Whether the text comes from standard input, which cannot be read again.
    """
    try:
        with stopping_at_once(out):
            yield
    except BaseException as error:
        from engram.corpus.results.work_folder import is_resumable

        if folder is not None and not reads_stdin and is_resumable(folder):
            out.note(WORK_IS_KEPT)
        elif folder is not None and isinstance(error, KeyboardInterrupt):
            out.note("Nothing is kept, since nothing resumable was finished: start over.")
        raise


def tell_work(
    out: Output, folder: Path | None, was_finished: bool, resumed: str, met: Notes
) -> None:
    """Tell the user what was met in work on a text: earlier runs, engines, skipped documents.

    Args:
        out: Where to.
        folder: The folder that was written.
        was_finished: Whether it was there already.
        resumed: Parts that an earlier run had finished, as "3 shards"; empty when none.
        met: Engines as sentences, with a reason in a second line for ``-v``; warnings; problems.
    """
    if was_finished:
        out.note(f"{folder} was finished already.")
    elif resumed:
        out.note(f"Went on after {resumed} that an earlier run had finished.")
    for sentence in met.engines:
        what, _, why = sentence.partition("\n")
        out.note(what)
        if why:
            out.detail(why)
    for warning in met.warnings:
        out.warn(warning)
    if met.skipped:
        out.warn(skipped_text(met.skipped, met.problems))
