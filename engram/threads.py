"""Shared thread pools: starting a thread costs as much as a small task."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache


@cache
def kept_threads(name: str, workers: int) -> ThreadPoolExecutor:
    """Return a thread pool that is started once per process.

    Args:
        name: Prefix of the threads' names, as debuggers show them.
        workers: Number of threads.
    """
    return ThreadPoolExecutor(workers, name)


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=kept_threads.cache_clear)  # threads do not survive a fork
