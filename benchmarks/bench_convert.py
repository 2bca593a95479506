"""Times `engram convert` against synced copies of what it writes, `verify --full` against sha256.

An adapter of 1 GB of bfloat16 tables, made for the SmolLM2-135M checkpoint of ENGRAM_ASSETS, is
converted to published names (lossless), to fp8 and to int8, each in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_attach import ROW_BYTES, copy_of, memory
from measured import Ratio, finish, parser_of, times_as_fast

from engram.config.config_file import write_config

TABLE_BYTES, QUICK_BYTES = 10**9, 10**8
CONVERSIONS = {
    "published names": ["--to", "demo"],
    "fp8": ["--dtype", "fp8"],
    "int8": ["--dtype", "int8"],
}


def main() -> None:
    """Parse the command line, run rounds, print the ratios."""
    parser = parser_of(__doc__)
    arguments = parser.parse_args()
    base = Path(os.environ.get("ENGRAM_ASSETS", "")) / "smollm2-135m"
    if not base.is_dir():
        parser.exit(
            4, "ENGRAM_ASSETS names no folder with smollm2-135m: `make assets` fetches it\n"
        )
    rounds = 1 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory(dir=os.environ.get("ENGRAM_BENCH_DIR")) as name:
        folder = Path(name)
        size = QUICK_BYTES if arguments.quick else TABLE_BYTES
        write_config(folder / "memory.yaml", memory(size // (2 * 2 * ROW_BYTES)))
        source = folder / "source"
        given = ["-c", str(folder / "memory.yaml"), "-o", str(source), "--adapter", "--digests"]
        engram("attach", str(base), *given, "--dtype", "bfloat16")
        ratios = [converted(source, folder, what, rounds) for what in CONVERSIONS]
        ratios.append(verified(source, rounds))
    finish(ratios, arguments.json)


def engram(*arguments: str) -> float:
    """Run a command and see what it writes onto the disk; returns seconds."""
    os.sync()
    begin = time.perf_counter()
    command = [sys.executable, "-m", "engram_cli", *arguments, "-q"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    os.sync()
    return time.perf_counter() - begin


def converted(source: Path, folder: Path, what: str, rounds: int) -> Ratio:
    """Convert, and copy what was written."""
    target, seconds, copies, written = folder / "converted", [], [], 0
    for _ in range(rounds):
        shutil.rmtree(target, ignore_errors=True)
        seconds.append(engram("convert", str(source), "-o", str(target), *CONVERSIONS[what]))
        written = sum(path.stat().st_size for path in target.rglob("*"))
        copies.append(copy_of(target, folder / "copy"))
    shutil.rmtree(target)
    return Ratio(
        f"convert-{what.partition(' ')[0]}-copy",
        f"engram convert to {what}, whole process",
        "a synced copy of the files that it writes",
        times_as_fast(seconds, copies),
        note=f"{written / 1e9:.2f} GB; convert {min(seconds):.1f} s, copy {min(copies):.1f} s",
    )


def verified(source: Path, rounds: int) -> Ratio:
    """Verify with and without digests; the difference is compared with sha256sum."""
    files = [str(path) for path in source.glob("*.safetensors")]
    digested, summed = [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
        summed.append(time.perf_counter() - begin)
        plain = engram("verify", str(source), "--headers-only")
        digested.append(engram("verify", str(source), "--headers-only", "--full") - plain)
    return Ratio(
        "verify-full-sha256sum",
        "engram verify --full, beyond a verify without it",
        "sha256sum of the weight files",
        times_as_fast(digested, summed),
        note=f"{min(digested):.2f} and {min(summed):.2f} s at best",
    )


if __name__ == "__main__":
    main()
