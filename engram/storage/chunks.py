"""Bytes of files that are written as streams: chunks, made on threads ahead of the writing."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Chunk = Any  # anything with the buffer protocol; for `Place.write`, or a `Hole`
# Chunks of one tensor or file, each made when its function is called, on whatever thread.
Chunks = Iterable[Callable[[], Chunk]]
Buffer = NDArray[np.uint8]

_AT_A_TIME = 2
_ZEROS = 2**20


@dataclass(frozen=True)
class Filled:
    """A chunk that can be made in memory which was another's before.

    Attributes:
        size_bytes: Its bytes.
        fill: Writes it into memory of that size.
    """

    size_bytes: int
    fill: Callable[[Buffer], object]

    def __call__(self) -> Buffer:
        """Make it in memory of its own."""
        return self.into(np.empty(self.size_bytes, np.uint8))

    def into(self, buffer: Buffer) -> Buffer:
        """Make it in memory that is given."""
        self.fill(buffer)
        return buffer


@dataclass(frozen=True)
class Hole:
    """Zeros for which a file needs no room on the disk.

    Attributes:
        size_bytes: How many.
    """

    size_bytes: int

    def zeros(self) -> Iterator[bytes]:
        """Yield them as bytes."""
        for first in range(0, self.size_bytes, _ZEROS):
            yield bytes(min(_ZEROS, self.size_bytes - first))


def made_chunks(makers: Chunks) -> Iterator[Chunk]:
    """Yield chunks in order, each valid until the next is asked for; two are made at a time.

    Memory of `Filled` chunks is used again: where it is new, the system clears it page by page,
    which can take longer than filling it.
    """
    spare: list[Buffer] = []
    used: list[Buffer] = []  # of the waiting chunks that are `Filled`, in order
    waiting: list[tuple[Callable[[], Chunk], Future[Chunk]]] = []

    def begin(maker: Callable[[], Chunk]) -> None:
        if not isinstance(maker, Filled):
            waiting.append((maker, pool.submit(maker)))
            return
        buffer = spare.pop() if spare else np.empty(maker.size_bytes, np.uint8)
        if len(buffer) < maker.size_bytes:
            buffer = np.empty(maker.size_bytes, np.uint8)
        used.append(buffer)
        waiting.append((maker, pool.submit(maker.into, buffer[: maker.size_bytes])))

    def first() -> Iterator[Chunk]:
        maker, made = waiting.pop(0)
        chunk = made.result()
        del made
        yield chunk
        if isinstance(maker, Filled):
            spare.append(used.pop(0))

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        for maker in makers:
            begin(maker)
            if len(waiting) > _AT_A_TIME:
                yield from first()
        while waiting:
            yield from first()
