"""Times `engram attach` of a large memory against a synced copy of the files that it writes.

Attaches a memory of engram-27b's table sizes (as many rows as the disk has room for, twice) in
bfloat16 to the SmolLM2-135M checkpoint of ENGRAM_ASSETS, in a process of its own; then copies the
written folder and syncs it. Targets: 1.3 times the copy, 1.5 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from engram.config.config_file import write_config
from engram.config.templates import load_template

ENGRAM_27B_ROWS = 2262400 * 8
ROW_BYTES = 80 * 2
TARGET_RATIO, TARGET_BYTES = 1.3, 1.5e9


def main() -> None:
    """Parse the command line, run both, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="rows per order and layer (default: engram-27b's)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    base = Path(os.environ.get("ENGRAM_ASSETS", "")) / "smollm2-135m"
    if not base.is_dir():
        parser.exit(
            4, "ENGRAM_ASSETS names no folder with smollm2-135m: `make assets` fetches it\n"
        )
    with tempfile.TemporaryDirectory(dir=os.environ.get("ENGRAM_BENCH_DIR")) as name:
        folder = Path(name)
        # Two layers of two orders, written once and copied once.
        room = shutil.disk_usage(folder).free * 0.8 / (2 * 2 * 2 * ROW_BYTES)
        rows = arguments.rows or int(min(ENGRAM_27B_ROWS, room))
        config = replace(
            load_template("smollm2"),
            engram_table_size=[rows, rows],
            n_embed_per_ngram=640,
            table_dtype="bfloat16",
        )
        write_config(folder / "memory.yaml", config)
        command = [sys.executable, "-m", "engram_cli", "attach", str(base)]
        command += ["-c", str(folder / "memory.yaml"), "-o", str(folder / "attached")]
        start = time.perf_counter()
        subprocess.run(
            [*command, "--dtype", "bfloat16", "-q"], check=True, stdout=subprocess.DEVNULL
        )
        attach_seconds = time.perf_counter() - start
        peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        os.sync()
        written = sum(path.stat().st_size for path in (folder / "attached").rglob("*"))
        start = time.perf_counter()
        subprocess.run(["cp", "-r", str(folder / "attached"), str(folder / "copy")], check=True)
        os.sync()
        copy_seconds = time.perf_counter() - start
    results = {
        "schema": "engram.bench-attach/1",
        "ratio": attach_seconds / copy_seconds,
        "target_ratio": TARGET_RATIO,
        "attach_seconds": attach_seconds,
        "copy_seconds": copy_seconds,
        "written_bytes": written,
        "peak_bytes": peak_bytes,
        "target_peak_bytes": int(TARGET_BYTES),
    }
    if arguments.json:
        print(json.dumps(results))
        return
    print(f"ratio {results['ratio']:.2f} (target {TARGET_RATIO}): attach {attach_seconds:.1f} s, ")
    print(f"synced copy {copy_seconds:.1f} s, {written / 1e9:.2f} GB written")
    print(f"peak memory {peak_bytes / 1e9:.2f} GB (target {TARGET_BYTES / 1e9} GB)")


if __name__ == "__main__":
    main()
