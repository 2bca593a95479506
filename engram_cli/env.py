"""`engram env`: versions and machine, for a bug report."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import engram
from engram.units import format_bytes
from engram_cli.options import JsonOption, QuietOption, VerboseOption
from engram_cli.output import Output

if TYPE_CHECKING:
    from rich.console import Console

# What the toolkit is built on, then what its extras bring and what is used beside it.
PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors", "huggingface-hub"),
    *("numpy", "numba", "sympy", "pyyaml", "typer", "rich"),
    *("accelerate", "gigatoken", "matplotlib", "peft", "pyarrow", "ray"),
)


def env(
    json: JsonOption = False, quiet: QuietOption = False, verbose: VerboseOption = False
) -> None:
    """Show the versions and the machine, for a bug report.

    Examples:
        $ engram env
        $ engram env --json
    """
    found = _environment()
    Output(json=json, quiet=quiet, verbose=verbose).result(
        {"schema": "engram.env/1", **found}, lambda console: _show(console, found)
    )


def _environment() -> dict[str, Any]:
    return {
        "engram": engram.__version__,
        "python": platform.python_version(),
        "python_path": sys.executable,
        "platform": platform.platform(),
        "cores": _cores(),
        "memory_bytes": _memory_bytes(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _cores() -> int | None:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _show(console: Console, found: dict[str, Any]) -> None:
    from rich.table import Table

    memory_bytes = found["memory_bytes"]
    rows = {
        **{name: found[name] for name in ("engram", "python", "python_path", "platform", "cores")},
        "memory": format_bytes(memory_bytes) if memory_bytes is not None else None,
        **found["packages"],
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, "not installed" if value is None else str(value))
    console.print(table)
