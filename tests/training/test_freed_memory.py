"""Memory that was freed stays with the process where glibc allocates it."""

import platform
import subprocess
import sys

import pytest

_STEP = """
import ctypes
{before}
libc = ctypes.CDLL(None)
libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.free(libc.malloc(24 * 2**20))  # glibc takes blocks of this size from the heap now
start = libc.sbrk(0)
for block in [libc.malloc(24 * 2**20) for _ in range(8)][::-1]:
    libc.free(block)
print(libc.sbrk(0) - start)
"""
_KEEP = "from engram.training.freed_memory import keep_freed_memory; keep_freed_memory()"


def kept_bytes(before: str) -> int:
    """Allocate and free 192 MiB in a process of its own; return what the heap has grown by."""
    command = [sys.executable, "-c", _STEP.format(before=before)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the rule is glibc's")
def test_freed_memory_stays_once_it_is_to_be_kept() -> None:
    assert kept_bytes("") < 2**26
    assert kept_bytes(_KEEP) > 160 * 2**20
