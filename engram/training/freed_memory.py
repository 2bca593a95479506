"""Has glibc keep freed memory, so that a training step need not fault its pages in anew."""

import ctypes
import sys

# Parameters of mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The most that glibc takes.
_MAPPED_BYTES = 2**25
_KEPT_BYTES = 2**30


def keep_freed_memory() -> None:
    """Keep up to 1 GiB of the heap's free end, where glibc allocates it.

    For processes whose only work is training, since it changes how all of a process's memory is
    allocated.

    glibc returns the free end to the system when it exceeds twice the largest block that was freed,
    64 MiB at most (mallopt(3)). The end of each backward pass then gives its tensors back, and the
    next step faults their pages in again: 3 to 12 thousand of them, up to 15 % of the time of a
    module's step (B 4, T 512, hidden 768). Larger blocks than 32 MiB, such as the dense gradient of
    a table, come from the system each time, whatever is set.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        # One setting ends the other's own growth: both are at least what it may reach.
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
