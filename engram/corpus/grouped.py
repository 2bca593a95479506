"""Groups consecutive items, so that each group is large enough for what is done with it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def grouped(items: Iterable[T], size_of: Callable[[T], int], enough: int) -> Iterator[list[T]]:
    """Group consecutive items.

    Args:
        items: The items.
        size_of: Returns the size of an item.
        enough: Size at which a group is complete.

    Yields:
        The groups, each as soon as it is complete; the last one may be smaller.
    """
    group: list[T] = []
    size = 0
    for item in items:
        group.append(item)
        size += size_of(item)
        if size >= enough:
            yield group
            group, size = [], 0
    if group:
        yield group
