"""Runs a command and measures the most memory that it had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# A child starts with the memory of the process that forks it: here one that has little.
_BETWEEN = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
open(sys.argv[1], "w").write(str(peak))
sys.exit(code)
"""


def run_measured(
    command: list[str], folder: Path
) -> tuple[subprocess.CompletedProcess[bytes], int]:
    """Run a command.

    Args:
        command: Its words.
        folder: A folder for the measurement.

    Returns:
        The finished process with its output, and its peak memory in bytes.
    """
    file = folder / "peak_bytes.txt"
    words = [sys.executable, "-c", _BETWEEN, str(file), *command]
    done = subprocess.run(words, capture_output=True, check=False)
    return done, int(file.read_text())
