"""`VersionSet`: versions of the dependencies, laid over the environment that runs this.

pyproject.toml states the ranges and constraints.txt the tested versions. pip finds what else has to
change for a set (llvmlite with numba, say), and installs all of it into a folder of its own that
PYTHONPATH puts before the environment. torch stays as it is locked: its wheels are too large.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
OVERLAYS = ROOT / ".range"
NEVER_LAID_OVER = "torch"


class SetError(Exception):
    """A set of versions cannot be found or laid; the message says why."""


@dataclass(frozen=True)
class VersionSet:
    """The tested dependencies' versions under a name.

    Attributes:
        name: floor, lock, newest or peers.
        folder: Where the packages lie that differ from the environment's; None when none does.
        versions: Version in use of every tested dependency, by its name.
    """

    name: str
    folder: Path | None
    versions: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process that uses these versions and this folder's toolkit."""
        parts = [ROOT, *([self.folder] if self.folder else [])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, parts))}


@cache
def base_dependencies() -> tuple[Requirement, ...]:
    """Requirements as pyproject.toml states them."""
    return tuple(map(Requirement, _project()["dependencies"]))


@cache
def tested_dependencies() -> tuple[Requirement, ...]:
    """The base dependencies and those of pictures, whose oldest and newest versions are tested."""
    pictures = _project()["optional-dependencies"]["pictures"]
    return (*base_dependencies(), *map(Requirement, pictures))


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


@cache
def locked() -> dict[str, str]:
    """Version of every package in constraints.txt, by its canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


def floor_pin(requirement: Requirement) -> str:
    """Return the lowest version that a requirement allows, as a pin."""
    floors = [part.version for part in requirement.specifier if part.operator == ">="]
    if len(floors) != 1:
        raise SetError(f"pyproject.toml: {requirement} must state one lowest version")
    return f"{requirement.name}=={floors[0]}"


def lay(name: str, also: Sequence[str] = ()) -> VersionSet:
    """Find a set's versions and lay them over the environment.

    Args:
        name: floor (the lowest version of every range), newest (what the ranges allow at the
            index), or another name for those of constraints.txt.
        also: Pins of other packages that go with it, and bring what they need.

    Raises:
        SetError: pip finds no such set, or the set has versions that the ranges forbid.
    """
    wanted = [*also]
    for requirement in tested_dependencies():
        pinned = f"{requirement.name}=={locked()[canonicalize_name(requirement.name)]}"
        if name == "floor" and requirement.name != NEVER_LAID_OVER:
            pinned = floor_pin(requirement)
        elif name == "newest" and requirement.name != NEVER_LAID_OVER:
            pinned = str(requirement)
        wanted.append(pinned)
    changes = _changes(wanted)
    folder = OVERLAYS / name if changes else None
    if folder is not None:
        _install(folder, changes)
    laid = VersionSet(name, folder, _versions(folder))
    wrong = [
        f"{requirement.name} {laid.versions[requirement.name]}"
        for requirement in tested_dependencies()
        if not requirement.specifier.contains(laid.versions[requirement.name], prereleases=True)
    ]
    if wrong:
        raise SetError(f"{name}: pyproject.toml forbids {', '.join(wrong)}")
    return laid


def installed() -> VersionSet:
    """The versions of the environment that runs this, with nothing laid over it."""
    return VersionSet("installed", None, _versions(None))


def pip(*words: str, python: str | Path = sys.executable) -> None:
    """Run pip.

    Raises:
        SetError: It failed.
    """
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SetError(f"pip {' '.join(words)} failed:\n{done.stderr.strip()}")


def _changes(wanted: list[str]) -> list[str]:
    """Ask pip which packages it would install into this environment, as pins."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip("install", "--quiet", "--dry-run", "--upgrade", "--report", str(report), *wanted)
        found = json.loads(report.read_text())["install"]
    names = [(item["metadata"]["name"], item["metadata"]["version"]) for item in found]
    return sorted(f"{name}=={version}" for name, version in names)


def _install(folder: Path, pins: list[str]) -> None:
    """Install these packages alone; a folder that has them already is kept."""
    have = {pin.lower() for pin in _pins_in(folder)}
    if have == {pin.lower() for pin in pins}:
        return
    if folder.exists():
        shutil.rmtree(folder)
    pip("install", "--quiet", "--no-deps", "--target", str(folder), *pins)


def _pins_in(folder: Path) -> list[str]:
    found = distributions(path=[str(folder)])
    return [f"{package.metadata['Name']}=={package.version}" for package in found]


def _versions(folder: Path | None) -> dict[str, str]:
    """Read the versions that a process with this folder in front sees."""
    code = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]), sep='\\n')"
    names = [requirement.name for requirement in tested_dependencies()]
    environment = VersionSet("", folder, {}).environment
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, text=True, capture_output=True, check=True, env=environment)
    return dict(zip(names, done.stdout.split(), strict=True))
