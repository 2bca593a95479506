"""Measures what the toolkit costs against the size of the text and of the tables.

Every measurement is a process of its own, and is written into the JSON as soon as it is there: a
run that was stopped goes on where it was. Sizes without room on the disk or in memory are passed
over, and said.

    python benchmarks/scale.py                                  # everything of docs/scale.md
    python benchmarks/scale.py --quick --file /tmp/scale.json   # small sizes, for development
    python benchmarks/scale.py --megabytes 10 30 --only hash build
    python benchmarks/scale.py --rows 1e6 --only attach --again

Texts are made by `scale_text.py` from english.txt of ENGRAM_ASSETS, in one file that grows. Sizes
of tables are rows of one layer's table, 128 bytes each. `scale_page.py` makes docs/scale.md and its
figures from the JSON.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measured import Ratio, finish, parser_of
from scale_line import TEXTS, of_series, slope_ratio
from scale_runs import FailedRunError
from scale_series import SERIES, Bench, NoRoomError, Point, Series, machine_memory

from engram.storage.files import atomic_write
from engram.threads import usable_cores

SCHEMA = "engram.scale/1"
FILE = Path(__file__).with_suffix(".json")
MEGABYTES = (10, 30, 100, 300, 1000, 3000, 10_000)
ROWS = tuple(10**power for power in range(5, 10))
QUICK_MEGABYTES, QUICK_ROWS = (10, 15, 20, 30), (10**5, 10**6)
MOST_SLOPE_RATIO = 1.2
_PACKAGES = ("numpy", "numba", "torch", "tokenizers", "gigatoken", "ray")


class Measurements:
    """The JSON of all measurements, of one machine and one set of versions.

    Args:
        file: The file; it is made when it is not there.

    Raises:
        SystemExit: It is of another machine, or of other versions.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        there = json.loads(file.read_text()) if file.exists() else {}
        self.points: list[Point] = there.get("points", [])
        self.machine = machine()
        if self.points and there["machine"] != self.machine:
            raise SystemExit(
                f"{file} was measured with {there['machine']}, and this is {self.machine}. Remove "
                "it, or name another with --file."
            )

    def has(self, series: Series, size: int) -> bool:
        """Whether a series was measured at a size."""
        return any((it["series"], it["size"]) == (series.name, size) for it in self.points)

    def add(self, series: Series, size: int, found: Point) -> None:
        """Add a measurement in place of an older one, and write the file."""
        point = {"series": series.name, "size": size, **found}
        others = [it for it in self.points if (it["series"], it["size"]) != (series.name, size)]
        names = [it.name for it in SERIES]
        self.points = sorted(
            [*others, point], key=lambda it: (names.index(it["series"]), it["size"])
        )
        content = {"schema": SCHEMA, "machine": self.machine, "points": self.points}
        with atomic_write(self.file) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")


def machine() -> dict[str, Any]:
    """Return the machine and the versions that are measured."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_bytes": machine_memory(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def wanted(given: Namespace) -> Iterator[tuple[Series, int]]:
    """Yield what is to be measured: tables way by way, then texts size by size."""
    sizes = {"bytes": [round(10**6 * it) for it in given.megabytes], "rows": given.rows}
    chosen = [it for it in SERIES if it.name in given.only]
    for series in chosen:
        if series.unit == "rows":
            yield from ((series, int(rows)) for rows in sorted(sizes["rows"]))
    for size_bytes in sorted(sizes["bytes"]):
        yield from ((series, size_bytes) for series in chosen if series.unit == "bytes")


def measure(given: Namespace, bench: Bench) -> bool:
    """Measure what is missing; returns whether nothing failed."""
    measurements, is_well = Measurements(given.file), True
    for series, size in wanted(given):
        if measurements.has(series, size) and not given.again:
            continue
        named, started = f"{series.name:12}{size:>16,} {series.unit}", time.perf_counter()
        try:
            measurements.add(series, size, series.measure(bench, size))
        except NoRoomError as reason:
            print(f"{named}: passed over, {reason}", flush=True)
        except (FailedRunError, OSError) as error:
            is_well = False
            print(f"{named}: FAILED, {error}", flush=True)
        else:
            print(f"{named}: {time.perf_counter() - started:.1f} s in all", flush=True)
    return is_well


def ratios(points: list[Point]) -> Iterator[Ratio]:
    """Yield the slopes of the largest texts over those of the smallest."""
    for name, command in TEXTS.items():
        found = slope_ratio(of_series(points, name))
        if found is not None:
            yield Ratio(
                f"scale-{name}",
                f"{command}: seconds a byte, between the largest texts",
                "the same between the smallest",
                [found],
                at_most=MOST_SLOPE_RATIO,
            )


def main() -> None:
    """Measure what is missing, and print the slopes."""
    parser = parser_of(__doc__)
    names = [it.name for it in SERIES]
    parser.add_argument("--megabytes", type=float, nargs="*", help=f"default: {MEGABYTES}")
    parser.add_argument("--rows", type=float, nargs="*", help="default: 10^5 to 10^9")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--again", action="store_true", help="measure also what is there")
    parser.add_argument("--file", type=Path, default=FILE, help="the JSON of all measurements")
    parser.add_argument("--folder", type=Path, help="for texts and tables, on a disk of its own")
    given = parser.parse_args()
    if given.megabytes is None:
        given.megabytes = QUICK_MEGABYTES if given.quick else MEGABYTES
    if given.rows is None:
        given.rows = QUICK_ROWS if given.quick else ROWS
    assets = Path(os.environ.get("ENGRAM_ASSETS", "~/.cache/engram-toolkit/assets")).expanduser()
    if not (assets / "english.txt").is_file():
        parser.exit(4, f"{assets} has no english.txt: `make assets` fetches it\n")
    # Of one name, so that what a killed run left is removed by the next one.
    folder = (given.folder or Path(tempfile.gettempdir())) / "engram-scale"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        is_well = measure(given, Bench(folder, assets, 1 if given.quick else given.rounds))
    finally:
        shutil.rmtree(folder)
    finish(list(ratios(Measurements(given.file).points)), given.json)
    if not is_well:
        parser.exit(1)


if __name__ == "__main__":
    main()
