"""Does units of a corpus in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import wait as futures_wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait
from typing import Any

from engram.corpus.unit_work import Report, UnitResult, UnitTask, behind, run_unit
from engram.errors import EngramError

_SECONDS_BETWEEN_REPORTS = 0.2
# Of a worker, from `_begin`.
_read_bytes: Any = None


class WorkerLostError(EngramError):
    """A worker ended before its work was done."""

    code = "worker_lost"
    exit_code = 3


def run_local(
    tasks: Sequence[UnitTask], workers: int, report: Report
) -> Iterator[tuple[int, UnitResult]]:
    """Do units, several at a time.

    When one fails, or the caller stops, the units under way are still finished, so that a build
    that is resumed does not do them again.

    Args:
        tasks: The units.
        workers: Processes; with one, the work is done in this process, which then encodes with as
            many threads as RAYON_NUM_THREADS says.
        report: Called with the bytes of all the units that were read so far.

    Yields:
        The index of each unit and its result, in the order of the units.

    Raises:
        InputError: A document cannot be read or encoded.
        WorkerLostError: A worker was killed.
    """
    if min(workers, len(tasks)) <= 1 or any(s.path is None for t in tasks for s in t.unit.sources):
        before = 0
        for task in tasks:
            yield task.index, run_unit(task, behind(report, before))
            before += task.unit.size_bytes
        return
    spawn = multiprocessing.get_context("spawn")
    read_bytes: Any = spawn.RawArray("q", len(tasks))
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        # A forked process has the threads of neither tokenizer.
        mp_context=spawn,
        initializer=_begin,
        initargs=(max(1, workers // len(tasks)), read_bytes),
    )
    try:
        futures: list[Any] = [pool.submit(_run, place, task) for place, task in enumerate(tasks)]
        for task, future in zip(tasks, futures, strict=True):
            while not futures_wait([future], _SECONDS_BETWEEN_REPORTS).done:
                report(sum(read_bytes))
            yield task.index, future.result()
    except BrokenProcessPool as error:
        raise WorkerLostError(
            "A worker process was killed, perhaps because memory ran out.",
            "Run the command again with --resume, and with a smaller -j if memory is short.",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run(place: int, task: UnitTask) -> UnitResult:
    return run_unit(task, partial(_read_bytes.__setitem__, place))


def _begin(threads: int, read_bytes: Any) -> None:
    """Prepare a worker: one that has lost its parent ends, and Ctrl-C is the parent's to handle.

    Args:
        threads: Threads that it encodes with.
        read_bytes: Memory shared with the parent, where each unit has a place for its progress.
    """
    global _read_bytes
    _read_bytes = read_bytes
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent: Any = multiprocessing.parent_process()

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
