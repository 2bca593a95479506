"""Threads that wait for work: starting one takes as long as some of the work that is shared."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache


@cache
def kept_threads(name: str, workers: int) -> ThreadPoolExecutor:
    """Return threads that are started once a process.

    Args:
        name: What they do, as debuggers show it.
        workers: How many there are.
    """
    return ThreadPoolExecutor(workers, name)


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=kept_threads.cache_clear)  # a fork takes no threads along
