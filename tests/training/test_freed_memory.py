"""Memory that was freed stays with the process where glibc allocates it."""

import platform
import subprocess
import sys

import pytest

_STEPS = """
import resource
import torch
{before}
def step():
    return [torch.ones(2**20) for _ in range(32)]  # 128 MiB, freed at once
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_KEEP = "from engram.training.freed_memory import keep_freed_memory; keep_freed_memory()"


def faults(before: str) -> int:
    """Run steps in a process of their own, and return the pages that all but the first fault in."""
    command = [sys.executable, "-c", _STEPS.format(before=before)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the rule is glibc's")
def test_steps_fault_no_pages_in_once_freed_memory_is_kept() -> None:
    pages = 2**27 // 4096
    assert faults("") > pages
    assert faults(_KEEP) < pages // 20
