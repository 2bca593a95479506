"""`engram env`: versions and machine, for a bug report."""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

import engram
from engram.errors import DependencyError
from engram.seams import installed_version, tested_range
from engram.threads import usable_cores
from engram.units import format_bytes
from engram_cli.options import OUTPUT, taking
from engram_cli.output import Output, Shown, Table

if TYPE_CHECKING:
    from engram.seams import Probed

# Base dependencies, then those of the extras, then other packages that work with the toolkit.
PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors", "huggingface-hub"),
    *("numpy", "numba", "sympy", "pyyaml", "typer", "rich"),
    *("accelerate", "gigatoken", "matplotlib", "peft", "pyarrow", "ray"),
)


@taking(out=OUTPUT)
def env(
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Try every undocumented name of torch, transformers and typer in use."
        ),
    ] = False,
    *,
    out: Output,
) -> None:
    """Show the versions and the machine, for a bug report.

    With --probe the exit code is 5 if an installed version breaks something the toolkit relies on;
    the broken names are listed. It is 4 if torch or transformers is missing.

    Examples:
        $ engram env
        $ engram env --json
        $ engram env --probe
    """
    found = {
        "engram": engram.__version__,
        "python": platform.python_version(),
        "python_path": sys.executable,
        "platform": platform.platform(),
        "cores": usable_cores(),
        "memory_bytes": _memory_bytes(),
        "packages": {name: installed_version(name) for name in PACKAGES},
    }
    probed = _probe() if probe else []
    if probe:
        found["probes"] = [
            {
                "package": it.package,
                "name": it.seam.name,
                "reason": it.seam.reason,
                "ok": it.problem is None,
                "problem": it.problem,
            }
            for it in probed
        ]
    out.result({"schema": "engram.env/1", **found}, _show(found))
    broken = sorted({it.package for it in probed if it.problem is not None})
    if broken:
        wanted = " ".join(f"'{name}{tested_range(name)}'" for name in broken)
        out.next_step(f"pip install {wanted}")
        raise typer.Exit(5)


def _probe() -> list[Probed]:
    from engram_cli import compat

    try:
        from engram.hf.compat import probed

        found = probed()
    except DependencyError as error:  # importing engram.hf raises what is listed here
        found = list(error.probed)
    return [*found, *compat.probed()]


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _show(found: dict[str, Any]) -> Shown:
    memory_bytes = found["memory_bytes"]
    rows = {
        **{name: found[name] for name in ("engram", "python", "python_path", "platform", "cores")},
        "memory": format_bytes(memory_bytes) if memory_bytes is not None else None,
        **found["packages"],
    }
    yield Table([(name, "not installed" if it is None else it) for name, it in rows.items()])
    if "probes" in found:
        yield ""
        cells = [
            (
                f"{it['package']}: {it['name']}",
                "ok" if it["ok"] else f"FAILED: {it['problem']}",
                it["reason"],
            )
            for it in found["probes"]
        ]
        headings = ("probe", "result", "used for")
        yield Table(cells, headings, left=headings)
