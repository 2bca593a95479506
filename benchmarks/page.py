"""Runs the benchmarks and writes docs/benchmarks.md from what they measured (`make bench`).

Each benchmark's results are kept as a file in .bench/, so that some can be run again alone; the
page is made of all that are there. With --quick their short forms run, and no page is written.

    python benchmarks/page.py [NAME ...]       # such as hash, corpus, attach
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from limits import limits
from measured import SCHEMA

HERE = Path(__file__).parent
KEPT = HERE.parent / ".bench"
PAGE = HERE.parent / "docs" / "benchmarks.md"
# Every benchmark in the order of the page: its file is bench_NAME.py.
TITLES = {
    "hash": "Hash kernel and token map",
    "corpus": "Text to statistics",
    "build": "Text to tokens",
    "dataset": "Hash ids written and read",
    "attach": "Attaching a memory",
    "convert": "Converting a memory",
    "module": "The module",
    "decode": "Decoding with an attached model",
    "row_optimizer": "Training steps of tables",
    "training": "Learning with the defaults",
    "tables": "Tables in files",
    "file_tables": "Training of tables in files",
    "memory": "Estimates of memory",
    "start": "Start of commands",
}
# Without a short form: a minute or more each.
ONLY_LONG = ("training", "file_tables", "memory")
PACKAGES = (
    *("numpy", "numba", "torch", "transformers", "tokenizers", "gigatoken", "datasets"),
    *("datatrove", "safetensors", "typer"),
)


def main() -> int:
    """Run what was asked for, and write the page; return an exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="all of them by default")
    parser.add_argument("--quick", action="store_true", help="short forms; no page is written")
    parser.add_argument("--only-page", action="store_true", help="run nothing")
    parser.add_argument("--rounds", type=int, help="rounds of every benchmark")
    given = parser.parse_args()
    if unknown := set(given.names) - TITLES.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(TITLES)}")
    names = given.names or [n for n in TITLES if not (given.quick and n in ONLY_LONG)]
    KEPT.mkdir(exist_ok=True)
    if not given.quick and not given.only_page:
        (KEPT / "machine.json").write_text(json.dumps(describe_machine(), indent=2) + "\n")
    failed = [] if given.only_page else [n for n in names if not run(n, given)]
    if not given.quick:
        PAGE.write_text(page(), encoding="utf-8")
        print(f"wrote {PAGE}")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


def run(name: str, given: argparse.Namespace) -> bool:
    """Run one benchmark as a process of its own; return whether it ended well."""
    print(f"== {TITLES[name]} (bench_{name}.py)", flush=True)
    # Former results stay on the page until there are others.
    new = KEPT / f"{name}.new.json"
    words = [sys.executable, str(HERE / f"bench_{name}.py")]
    words += ["--quick"] if given.quick else ["--json", str(new)]
    words += [] if given.rounds is None else ["--rounds", str(given.rounds)]
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.monotonic()
    code = subprocess.run(words, check=False, env=environment).returncode
    if new.exists():
        new.replace(KEPT / f"{name}.json")
    print(f"   {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def describe_machine() -> dict[str, Any]:
    """Describe the machine: processor, memory, versions, and what it can do at most."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    facts = {name.strip(): value.strip() for name, _, value in (it.partition(":") for it in lines)}
    flags = facts.get("flags", "").split()
    widest = next((flag for flag in ("avx512f", "avx2", "avx") if flag in flags), "no AVX")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": facts.get("model name", platform.machine()),
        "vectors": widest,
        "cores": os.cpu_count(),
        "memory_bytes": pages,
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "limits": limits(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:
        return None


def page() -> str:
    """Write the page from the kept results."""
    found = {name: _results(name) for name in TITLES if (KEPT / f"{name}.json").exists()}
    every = [row for rows in found.values() for row in rows]
    missed = [row for row in every if row["is_kept"] is False]
    promised = sum(row["is_kept"] is not None for row in every)
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`, which runs everything in `benchmarks/` on an idle machine. Both",
        "sides of a ratio are measured in one run; a figure is the median of its rounds, with the",
        "quartiles in brackets. `make bench-quick` runs short forms in about two minutes.",
        "",
        *_machine(),
        f"**{promised - len(missed)} of {promised} promises are kept"
        + (".**" if not missed else f"; {len(missed)} missed:**"),
        "",
        *(f"- {row['what']}: {_figure(row)}, promised {_promise(row)}." for row in missed),
        *([""] if missed else []),
    ]
    if absent := [f"`bench_{name}.py`" for name in TITLES if name not in found]:
        lines += [f"Not measured for this page: {', '.join(absent)}.", ""]
    for name, rows in found.items():
        lines += [
            f"## {TITLES[name]}",
            "",
            f"`python benchmarks/bench_{name}.py`",
            "",
            "| measured | promised | what | against | of this run |",
            "|---|---|---|---|---|",
            *(_line(row) for row in rows),
            "",
        ]
    return "\n".join(lines)


def _machine() -> list[str]:
    path = KEPT / "machine.json"
    if not path.exists():
        return []
    machine = json.loads(path.read_text(encoding="utf-8"))
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    rates = ", ".join(f"{name} {rate:.2g} GB/s" for name, rate in machine["limits"].items())
    return [
        f"- Machine: {machine['processor']}, {machine['cores']} cores, {machine['vectors']}, "
        f"{machine['memory_bytes'] / 1e9:.0f} GB of memory, {machine['system']}.",
        f"- Versions: Python {machine['python']}, {packages}.",
        f"- Its limits: {rates}.",
        "",
    ]


def _results(name: str) -> list[dict[str, Any]]:
    kept = json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))
    if kept["schema"] != SCHEMA:
        raise SystemExit(f".bench/{name}.json is not of {SCHEMA}: run the benchmark again")
    rows: list[dict[str, Any]] = kept["results"]
    return rows


def _line(row: dict[str, Any]) -> str:
    verdict = {True: " kept", False: " **missed**", None: ""}[row["is_kept"]]
    cells: Sequence[str] = (
        _figure(row),
        f"{_promise(row)}{verdict}",
        row["what"],
        row["against"],
        row["note"],
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _figure(row: dict[str, Any]) -> str:
    low, high = row["quartiles"]
    spread = "" if len(row["rounds"]) == 1 else f" [{low:.3g}, {high:.3g}]"
    return f"{row['median']:.3g} {row['unit']}{spread}"


def _promise(row: dict[str, Any]) -> str:
    for name, words in (("at_least", "at least"), ("at_most", "at most")):
        if row[name] is not None:
            return f"{words} {row[name]:.3g} {row['unit']}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
