"""Seams: undocumented names of a dependency, each with its reason and a probe.

They stand in one file for each dependency: `engram/hf/compat.py` (transformers),
`engram/nn/compat.py` (torch) and `engram_cli/compat.py` (typer). A release that breaks one gets one
error, which names the seam, the installed version and the range that works.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from engram.errors import DependencyError

_DISTRIBUTION = "engram-toolkit"


@dataclass(frozen=True)
class Seam:
    """An undocumented name of a dependency.

    Attributes:
        name: Dotted name.
        reason: Use that the toolkit makes of it.
        probe: Raises, or returns False, where the installed version has another.
    """

    name: str
    reason: str
    probe: Callable[[], Any]


@dataclass(frozen=True)
class Probed:
    """Result of probing a seam.

    Attributes:
        package: Distribution name of the dependency.
        seam: The seam.
        problem: The reason it is broken; None when it holds.
    """

    package: str
    seam: Seam
    problem: str | None


def probe(package: str, seams: Iterable[Seam]) -> list[Probed]:
    """Probe the seams to a package, all of them.

    Args:
        package: Distribution name.
        seams: Its seams.
    """
    return [Probed(package, seam, _problem(seam)) for seam in seams]


def require(package: str, seams: Iterable[Seam]) -> None:
    """Refuse a version of a package that breaks a seam.

    Args:
        package: Distribution name.
        seams: Its seams.

    Raises:
        DependencyError: A seam is broken.
    """
    broken = [found for found in probe(package, seams) if found.problem is not None]
    if not broken:
        return
    names = ", ".join(found.seam.name for found in broken)
    installed, tested = installed_version(package), tested_range(package)
    raise DependencyError(
        f"{package} {installed} is not one that this toolkit works with: {names} "
        f"({broken[0].seam.reason}): {broken[0].problem}.",
        f"Install a tested version: pip install '{package}{tested}'. All probes: "
        "engram env --probe",
        package=package,
        installed=installed,
        tested=tested,
        seams=[found.seam.name for found in broken],
    )


def installed_version(package: str) -> str | None:
    """Return the installed version of a package; None when it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def tested_range(package: str) -> str:
    """Return the tested versions of a base dependency, such as ``>=5.18,<5.25``.

    Empty where the toolkit runs from a folder without being installed.
    """
    try:
        stated = requires(_DISTRIBUTION) or []
    except PackageNotFoundError:
        return ""
    for requirement in stated:
        match = re.match(r"([A-Za-z0-9._-]+)\s*\(?([^;)]*)", requirement)
        if match and match[1].replace("_", "-").lower() == package.replace("_", "-").lower():
            return match[2].strip()
    return ""


def _problem(seam: Seam) -> str | None:
    try:
        return "it is not as expected" if seam.probe() is False else None
    except Exception as error:  # whatever a probe meets in an unknown release is the finding
        return f"{type(error).__name__}: {error}"
