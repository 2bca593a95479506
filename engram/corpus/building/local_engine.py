"""Does units of work in processes on this machine."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from engram.corpus.building.unit_work import (
    Report,
    UnitResult,
    UnitTask,
    encode_unit,
    loaded_tokenizer,
    write_unit,
    write_units,
)
from engram.errors import EngramError

_SECONDS_BETWEEN_REPORTS = 0.2
_OPEN_FILES = Path("/proc/self/fd")
# A unit that is longer, such as a file in one document, starts first: at the end, one worker would
# do it while the others wait.
_LONG_BYTES = 2**24


class WorkerLostError(EngramError):
    """A worker process ended before its work was done."""

    code = "worker_lost"
    exit_code = 3


def run_local(
    tasks: Sequence[UnitTask], workers: int, report: Report
) -> Iterator[tuple[int, UnitResult]]:
    """Do units, several at a time.

    On Linux the processes are forks of this one, which has loaded all modules and the tokenizer
    already, unless it has other threads of Python. When a unit fails, those in progress are still
    finished, so that a resumed build does not repeat them. When the caller stops, the processes are
    killed.

    Args:
        tasks: The units.
        workers: Processes; with one, the work is done in this process, which then encodes with
            RAYON_NUM_THREADS threads.
        report: Called with the bytes of all the units that were read so far.

    Yields:
        The index and result of each unit when it is done.

    Raises:
        InputError: A document cannot be read or encoded.
        WorkerLostError: A worker was killed.
    """
    if min(workers, len(tasks)) <= 1 or any(s.path is None for t in tasks for s in t.sources):
        yield from write_units(tasks, map(encode_unit, tasks), report)
        return
    threads = max(1, workers // len(tasks))
    is_forked = threads == 1 and _may_fork()
    context: Any = multiprocessing.get_context("fork" if is_forked else "spawn")
    read_bytes = context.RawArray("q", len(tasks))
    if is_forked:
        loaded_tokenizer(tasks[0].tokenizer, tasks[0].tokenizer_sha256)
    started: list[Any] = []
    idle: list[Connection] = []
    try:
        with _interrupts_blocked():
            for _ in range(min(workers, len(tasks))):
                here, there = context.Pipe()
                started.append(
                    context.Process(
                        target=_work_as_fork if is_forked else _work,
                        args=(there, threads, read_bytes),
                        daemon=True,
                    )
                )
                with warnings.catch_warnings():
                    # Python 3.12 warns of the threads of numpy and others, which no fork uses.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    started[-1].start()
                there.close()
                idle.append(here)
        yield from _deal(tasks, idle, read_bytes, report)
    finally:
        # At once: unfinished files do no harm.
        for process in started:
            if process.pid is not None:
                process.kill()
                process.join()


def _may_fork() -> bool:
    """Whether this process may be forked: on Linux, without what a fork would wait for forever.

    A fork has the thread that forks alone. Another one of Python may hold a lock at that moment;
    those of gigatoken take work that the fork would give them.
    """
    return (
        sys.platform == "linux"
        and threading.active_count() == 1
        and "gigatoken" not in sys.modules
        and _OPEN_FILES.is_dir()
    )


def _deal(
    tasks: Sequence[UnitTask], idle: list[Connection], read_bytes: Any, report: Report
) -> Iterator[tuple[int, UnitResult]]:
    """Deal units to worker processes; see `run_local`.

    Args:
        tasks: The units.
        idle: Pipes to the processes.
        read_bytes: Memory shared with them, see `_work`.
        report: See `run_local`.
    """
    in_turn = sorted(enumerate(tasks), key=lambda item: item[1].size_bytes <= _LONG_BYTES)
    waiting = deque(in_turn)
    busy: dict[Any, tuple[int, UnitTask]] = {}
    failed: dict[int, Exception] = {}
    while busy or waiting:
        while waiting and idle:
            pipe = idle.pop()
            busy[pipe] = waiting.popleft()
            with _lost_if_closed():
                pipe.send(busy[pipe])
        ready: Any = wait(list(busy), _SECONDS_BETWEEN_REPORTS)
        for pipe in ready:
            place, task = busy.pop(pipe)
            with _lost_if_closed():
                done = pipe.recv()
            idle.append(pipe)
            if isinstance(done, UnitResult):
                yield task.index, done
            else:
                failed[place] = done
                # Units before it may fail, too, and the first error of the text is told.
                waiting = deque(item for item in waiting if item[0] < place)
        report(sum(read_bytes))
    if failed:
        raise failed[min(failed)]


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C while processes start, which inherit that; it is delivered after the block.

    Otherwise a half-started process would not be killed, and would report a missing parent.
    """
    resource_tracker.ensure_running()  # starting it unblocks signals
    handler, came = signal.getsignal(signal.SIGINT), list[int]()
    # Python runs all signal handlers in the main thread.
    is_held = callable(handler) and threading.current_thread() is threading.main_thread()
    if is_held:
        signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_held:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _lost_if_closed() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise WorkerLostError(
            "A worker process was killed, perhaps because memory ran out.",
            "Run the command again with --resume, and with a smaller -j (in Python, fewer workers) "
            "if memory is short.",
        ) from error


def _work_as_fork(pipe: Connection, threads: int, read_bytes: Any) -> None:
    """Do units in a forked process; see `_work`."""
    signal.set_wakeup_fd(-1)
    for name in signal.valid_signals():
        if callable(signal.getsignal(name)):  # a handler of the parent's
            signal.signal(name, signal.SIG_DFL)
    parent: Any = multiprocessing.parent_process()
    # The lock of the build is among the parent's files, and must end with it. Objects of the parent
    # may still write to them: their numbers are not to become those of new files.
    nowhere = os.open(os.devnull, os.O_RDWR)
    kept = (0, 1, 2, pipe.fileno(), parent.sentinel, nowhere)
    for number in {int(entry.name) for entry in _OPEN_FILES.iterdir()}.difference(kept):
        with suppress(OSError):  # that of the listing is closed already
            os.fstat(number)
            os.dup2(nowhere, number)
    gc.freeze()  # The parent's files are not to be closed.
    # The parent may have encoded with threads, which are not here.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _work(pipe, threads, read_bytes)


def _work(pipe: Connection, threads: int, read_bytes: Any) -> None:
    """Do units in a worker process until the pipe is closed; end at once with the parent.

    Args:
        pipe: Receives a slot and a unit, and returns the unit's result or error.
        threads: Threads to encode with.
        read_bytes: Memory shared with the parent, with the progress of the unit in each slot.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    parent: Any = multiprocessing.parent_process()

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    # When the parent ends, its end of the pipe may be closed before this process is killed.
    with suppress(EOFError, ConnectionError):
        while True:
            place, task = pipe.recv()
            try:
                done: UnitResult | Exception = write_unit(
                    task, encode_unit(task), partial(read_bytes.__setitem__, place)
                )
            except Exception as error:
                error.add_note("".join(traceback.format_exception(error)))
                done = error
            pipe.send(done)
