"""Bytes of files that are written as streams: chunks, made on threads ahead of the writing."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

Chunk = Any  # anything with the buffer protocol
# Chunks of one tensor or file, each made when its function is called, on whatever thread.
Chunks = Iterable[Callable[[], Chunk]]


def made_chunks(makers: Chunks) -> Iterator[Chunk]:
    """Yield chunks in order; two are being made at a time."""
    with ThreadPoolExecutor(2) as pool:
        waiting: list[Future[Chunk]] = []
        for maker in makers:
            waiting.append(pool.submit(maker))
            if len(waiting) > 2:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
