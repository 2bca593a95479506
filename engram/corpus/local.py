"""Does units of a corpus in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

from engram.corpus.unit_work import UnitResult, UnitTask, run_unit
from engram.errors import EngramError


class WorkerLostError(EngramError):
    """A worker ended before its work was done."""

    code = "worker_lost"
    exit_code = 3


def run_local(tasks: Sequence[UnitTask], workers: int) -> Iterator[tuple[int, UnitResult]]:
    """Do units, several at a time.

    When one fails, or the caller stops, the units under way are still finished, so that a build
    that is resumed does not do them again.

    Args:
        tasks: The units.
        workers: Processes; with one, the work is done in this process, which then encodes with as
            many threads as RAYON_NUM_THREADS says.

    Yields:
        The index of each unit and its result, in the order of the units.

    Raises:
        InputError: A document cannot be read or encoded.
        WorkerLostError: A worker was killed.
    """
    if min(workers, len(tasks)) <= 1 or any(s.path is None for t in tasks for s in t.unit.sources):
        for task in tasks:
            yield task.index, run_unit(task)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        # A forked process has the threads of neither tokenizer.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(max(1, workers // len(tasks)),),
    )
    try:
        futures: list[Any] = [pool.submit(run_unit, task) for task in tasks]
        for task, future in zip(tasks, futures, strict=True):
            yield task.index, future.result()
    except BrokenProcessPool as error:
        raise WorkerLostError(
            "A worker process was killed, perhaps because memory ran out.",
            "Run the command again with --resume, and with a smaller -j if memory is short.",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(threads: int) -> None:
    """Prepare a worker: one that has lost its parent ends, and Ctrl-C is the parent's to handle."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent: Any = multiprocessing.parent_process()

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
