"""Tokenises and counts a text on Ray, on this machine or a cluster, retrying lost tasks.

Tasks read the text and the tokenizer, which every node must see under the same path, and send
tokens and counts back; they write nothing. Their results depend on their arguments only, so Ray may
run them anywhere and more than once.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engram.addressing.addresses import Addresses
from engram.corpus.building.local_engine import WorkerLostError
from engram.corpus.building.unit_work import Report, UnitResult, UnitTask, encode_unit, write_units
from engram.corpus.counts.statistics import PartialStatistics, Statistics
from engram.corpus.results.stored_corpus import Notes
from engram.corpus.text.blocks import grouped
from engram.corpus.tokens.tokenise import TokenBatch
from engram.errors import (
    EngramError,
    MismatchError,
    MissingError,
    MissingFileError,
    MissingPackageError,
    UsageError,
)
from engram.growth import pieces
from engram.version import __version__

RETRIES = 3
_REACH_SECONDS = 5
_PIECE_TOKENS = 2**22
_NO_LIMIT = 2**62
# Ray prints messages about its workers to stdout, which belongs to the caller.
_SETTINGS = {
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_MISSING_MODULE = re.compile("No module named '[^']*'")


# A module-level generator function; Ray sends its name, not its code.
Work = Callable[..., Iterator[Any]]


class RayEngine:
    """An engine that uses Ray while the block runs.

    An existing connection of the process is used, and left open.

    Args:
        address: Address of a cluster's head, such as ``10.0.0.1:6379``, or ``auto`` on one of its
            nodes; None starts Ray on this machine.
        workers: CPUs of a Ray instance that is started here; a cluster uses all of its CPUs.
        retries: Number of retries of a task whose worker is lost.

    Raises:
        MissingPackageError: ray is not installed.
        MissingError: Ray is not running at the address.
        UsageError: The address is for Ray Client.
    """

    def __init__(
        self, address: str | None = None, workers: int = 1, *, retries: int = RETRIES
    ) -> None:
        if address is not None and address.startswith("ray://"):
            raise UsageError(
                f"{address} is an address of Ray Client, which cannot stream results.",
                "Run the command on a node of the cluster, with --address auto.",
                address=address,
            )
        self._address, self._workers, self._retries = address, workers, retries
        self._is_mine = False

    def __enter__(self) -> RayEngine:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError:
            raise MissingPackageError("ray", "ray", "--engine ray") from None
        if not ray.is_initialized():
            self._is_mine = True
            self._connect(ray)
        self._ray = ray
        # One waiting task per running one keeps the workers busy.
        self._most_in_flight = 2 * max(int(ray.cluster_resources().get("CPU", 1)), 1)
        self._serve = ray.remote(num_cpus=1, num_returns="streaming", max_retries=self._retries)(
            _serve
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_mine:
            self._ray.shutdown()

    def _connect(self, ray: Any) -> None:
        options: dict[str, Any] = {"address": self._address}
        if self._address is None:
            options = {"address": "local", "num_cpus": self._workers, "include_dashboard": False}
        try:
            # Ray itself would retry for minutes, and then end the process.
            if self._address not in (None, "auto"):
                host, _, port = self._address.rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except (OSError, ValueError) as error:
            raise MissingError(
                f"Ray is not running at {self._address}: {str(error).splitlines()[0]}",
                "Start one with ray start --head, or leave out --address.",
                address=self._address,
            ) from error

    def run_units(
        self, tasks: Sequence[UnitTask], report: Report
    ) -> Iterator[tuple[int, UnitResult]]:
        """Do units of a corpus; their files are written by this process. See `build_corpus`.

        Args:
            tasks: The units.
            report: Called with the bytes of all units read so far.

        Raises:
            InputError: A document cannot be read or encoded.
            MissingFileError: A worker does not see the text or the tokenizer.
            WorkerLostError: A task lost its worker too often.
        """
        return write_units(tasks, self.encode_units(tasks), report)

    def encode_units(self, tasks: Sequence[UnitTask]) -> Iterator[Iterator[TokenBatch | Notes]]:
        """Tokenise units; yield what `encode_unit` yields for each, and raise its errors."""
        if any(source.path is None for task in tasks for source in task.sources):
            raise UsageError(
                "Ray workers cannot read this command's standard input.",
                "Write it to a file first, or leave out --engine ray.",
            )
        return self._streams(_encode, ((_absolute(task),) for task in tasks))

    def count(self, batches: Iterable[TokenBatch], statistics: Statistics) -> None:
        """Add documents to statistics; workers count pieces, which are merged here.

        Raises:
            InputError: A token id is not below the tokenizer's length.
            WorkerLostError: A task lost its worker too often.
        """
        calls = (
            (statistics.addresses, statistics.levels, piece, begin, end)
            for piece, begin, end in _pieces(batches)
        )
        for parts in self._streams(_count, calls):
            for part in parts:
                statistics.merge(part)

    def _streams(self, work: Work, calls: Iterable[tuple[Any, ...]]) -> Iterator[Iterator[Any]]:
        """Run a task for each of several arguments.

        Yields:
            The results of each call, in order.
        """
        running: deque[Any] = deque()
        for call in calls:
            if len(running) == self._most_in_flight:
                yield self._read(running.popleft())
            running.append(self._serve.remote(__version__, work, call))
        while running:
            yield self._read(running.popleft())

    def _read(self, stream: Any) -> Iterator[Any]:
        from ray.exceptions import RayError, RayTaskError

        try:
            for reference in stream:
                value = self._ray.get(reference)
                if isinstance(value, Exception):
                    raise value
                yield value
        except RayTaskError as error:
            # Ray wraps exceptions of tasks, and errors on unpickling them, in several ways.
            if missing := _MISSING_MODULE.search(str(error)):
                raise MissingError(
                    f"A Ray worker cannot import what it needs: {missing[0]}.",
                    f"Install engram-toolkit {__version__} on every node of the cluster.",
                ) from error
            raise
        except RayError as error:
            raise WorkerLostError(
                f"A task was given up after {self._retries} retries, because its Ray worker was "
                f"lost each time ({type(error).__name__}).",
                "Look for memory that runs out (ray status, ray memory); give fewer workers with "
                "-j.",
                retries=self._retries,
            ) from error


def _pieces(batches: Iterable[TokenBatch]) -> Iterator[tuple[TokenBatch, int, int]]:
    """Cut a text into pieces for workers to count, see `growth.pieces`.

    Yields:
        The documents that contain a piece, and its begin and end in their tokens.
    """
    first = 0
    for group in grouped(batches, lambda batch: len(batch.tokens), _PIECE_TOKENS):
        batch = _join(group)
        bounds = batch.boundaries
        for begin, end in pieces(first, len(batch.tokens), _PIECE_TOKENS):
            low = int(np.searchsorted(bounds, begin, side="right")) - 1
            high = int(np.searchsorted(bounds, end))
            start = int(bounds[low])
            tokens = batch.tokens[start : bounds[high]]
            yield TokenBatch(tokens, bounds[low : high + 1] - start, 0), begin - start, end - start
        first += len(batch.tokens)


def _join(batches: Sequence[TokenBatch]) -> TokenBatch:
    lengths = [np.zeros(1, np.int64), *(np.diff(batch.boundaries) for batch in batches)]
    boundaries = np.cumsum(np.concatenate(lengths))
    return TokenBatch(np.concatenate([batch.tokens for batch in batches]), boundaries, 0)


def _absolute(task: UnitTask) -> UnitTask:
    """Return the task with absolute paths."""
    sources = tuple(
        replace(source, path=source.path and source.path.absolute()) for source in task.sources
    )
    path = Path(task.tokenizer).expanduser()
    tokenizer = str(path.absolute()) if path.exists() else task.tokenizer
    return replace(task, sources=sources, tokenizer=tokenizer)


def _serve(version: str, work: Work, call: tuple[Any, ...]) -> Iterator[Any]:
    """Run a task in a Ray worker, which has one CPU."""
    os.environ["RAYON_NUM_THREADS"] = "1"
    try:
        if __version__ != version:
            raise MismatchError(
                f"The Ray worker on {socket.gethostname()} has engram-toolkit {__version__}, "
                f"this command is {version}: their results may differ.",
                "Install the same version on every node.",
                expected=version,
                found=__version__,
            )
        yield from work(*call)
    except (EngramError, OSError) as error:
        yield error  # one that is meant for the user


def _encode(task: UnitTask) -> Iterator[TokenBatch | Notes]:
    """Tokenise a unit, see `encode_unit`; check first that this node sees its files."""
    for path in (*(source.path for source in task.sources), Path(task.tokenizer)):
        if path is not None and path.is_absolute() and not path.exists():
            raise MissingFileError(
                f"The Ray worker on {socket.gethostname()} does not see {path}.",
                "Put the text and the tokenizer where every node sees them under the same path, or "
                "leave out --engine ray.",
                file=str(path),
                node=socket.gethostname(),
            )
    yield from encode_unit(task)


def _count(
    addresses: Addresses, levels: dict[int, int], documents: TokenBatch, begin: int, end: int
) -> Iterator[PartialStatistics]:
    """Count positions begin..end-1 of documents, see `Statistics.part`."""
    # Copied, since kernels would be compiled again for read-only arrays.
    own = TokenBatch(documents.tokens.copy(), documents.boundaries.copy(), 0)
    yield Statistics(addresses, most_distinct=_NO_LIMIT, levels=levels).part(own, begin, end)
