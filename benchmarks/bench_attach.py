"""Times `engram attach` of a large memory against a synced copy of the files that it writes.

Attaches a memory of engram-27b's table sizes (as many rows as the disk has room for, twice) in
bfloat16 to the SmolLM2-135M checkpoint of ENGRAM_ASSETS, in a process of its own; then copies the
written folder and syncs it. Both are removed before the next round.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from measured import Ratio, finish, parser_of, times_as_fast

from engram.config.config_file import write_config
from engram.config.engram_config import EngramConfig
from engram.config.templates import load_template

ENGRAM_27B_ROWS, QUICK_ROWS = 2262400 * 8, 2_000_000
ROW_BYTES = 80 * 2
PROMISED_RATIO, PROMISED_GB = 1.1, 1.5


def main() -> None:
    """Parse the command line, run rounds, print the ratios."""
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, help="rows per order and layer (default: engram-27b's)")
    arguments = parser.parse_args()
    base = Path(os.environ.get("ENGRAM_ASSETS", "")) / "smollm2-135m"
    if not base.is_dir():
        parser.exit(
            4, "ENGRAM_ASSETS names no folder with smollm2-135m: `make assets` fetches it\n"
        )
    attached, copied, written = [], [], 0
    with tempfile.TemporaryDirectory(dir=os.environ.get("ENGRAM_BENCH_DIR")) as name:
        folder = Path(name)
        # Two layers of two orders, written once and copied once.
        room = shutil.disk_usage(folder).free * 0.8 / (2 * 2 * 2 * ROW_BYTES)
        asked = arguments.rows or (QUICK_ROWS if arguments.quick else ENGRAM_27B_ROWS)
        write_config(folder / "memory.yaml", memory(int(min(asked, room))))
        for _ in range(1 if arguments.quick else arguments.rounds):
            attached.append(attach(base, folder))
            written = sum(path.stat().st_size for path in (folder / "attached").rglob("*"))
            copied.append(copy_of(folder / "attached", folder / "copy"))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    note = f"{written / 1e9:.2f} GB; attach {min(attached):.1f} s, copy {min(copied):.1f} s at best"
    ratios = [
        Ratio(
            "attach-copy",
            "engram attach of engram-27b's tables in bfloat16, whole process",
            "a synced copy of the files that it writes",
            times_as_fast(attached, copied),
            at_most=PROMISED_RATIO,
            note=note,
        ),
        Ratio(
            "attach-peak",
            "peak memory of engram attach",
            "a bound",
            [peak / 1e9],
            at_most=PROMISED_GB,
            unit="GB",
        ),
    ]
    finish(ratios, arguments.json)


def memory(rows: int) -> EngramConfig:
    """Return the config of a memory with so many rows per order and layer."""
    return replace(
        load_template("smollm2"),
        engram_table_size=[rows, rows],
        n_embed_per_ngram=640,
        table_dtype="bfloat16",
    )


def attach(base: Path, folder: Path) -> float:
    """Attach, and see everything onto the disk; returns seconds."""
    shutil.rmtree(folder / "attached", ignore_errors=True)
    os.sync()
    command = [sys.executable, "-m", "engram_cli", "attach", str(base)]
    command += ["-c", str(folder / "memory.yaml"), "-o", str(folder / "attached")]
    begin = time.perf_counter()
    subprocess.run([*command, "--dtype", "bfloat16", "-q"], check=True, stdout=subprocess.DEVNULL)
    os.sync()
    return time.perf_counter() - begin


def copy_of(written: Path, target: Path) -> float:
    """Copy what was written, see it onto the disk, and remove the copy; returns seconds."""
    # What is written directly is not in memory: the copy is to be one from memory.
    for path in written.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(2**24):
                    pass
    begin = time.perf_counter()
    subprocess.run(["cp", "-r", str(written), str(target)], check=True)
    os.sync()
    seconds = time.perf_counter() - begin
    shutil.rmtree(target)
    return seconds


if __name__ == "__main__":
    main()
