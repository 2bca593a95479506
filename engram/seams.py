"""Seams: undocumented names of a dependency, each with its reason and a probe.

There is one file of them for each dependency: `engram/hf/compat.py` (transformers),
`engram/nn/compat.py` (torch) and `engram_cli/compat.py` (typer). A release that breaks one gets one
error, which names the seam, the installed version and the range that works.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import Any

from engram.errors import DependencyError, EngramError

_DISTRIBUTION = "engram-toolkit"
# Most broken seams that a message names.
_NAMED = 3


@dataclass(frozen=True)
class Seam:
    """An undocumented name of a dependency.

    Attributes:
        name: Dotted name.
        reason: The toolkit's use of it, as a noun phrase.
        probe: Returns True if the installed version has it as expected. Any other result, or an
            exception, means that it does not.
    """

    name: str
    reason: str
    probe: Callable[[], Any]


@dataclass(frozen=True)
class CallableSeam(Seam):
    """A seam of something callable, which can be called itself.

    Attributes:
        find: Imports and returns what is called.
    """

    find: Callable[[], Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return self.find()(*args, **kwargs)


@dataclass(frozen=True)
class Probed:
    """Result of probing a seam.

    Attributes:
        package: Distribution name of the dependency.
        seam: The seam.
        problem: The difference from what is expected, as a verb phrase; None when it holds.
    """

    package: str
    seam: Seam
    problem: str | None


def callable_seam(module: str, path: str, reason: str, *takes: str) -> CallableSeam:
    """Make the seam of a function, a method or a class in a module.

    Args:
        module: Dotted name of the module.
        path: Dotted name inside the module.
        reason: See `Seam`.
        *takes: Names of its first arguments, in order; without any, the probe ignores arguments.
    """

    def find() -> Any:
        return attrgetter(path)(import_module(module))

    def is_there() -> bool:
        found = find()
        return callable(found) and (
            not takes or tuple(inspect.signature(found).parameters)[: len(takes)] == takes
        )

    name = ".".join((*module.split(".")[1:], path))
    shown = f"{name}({', '.join(takes)})" if takes else name
    return CallableSeam(shown, reason, is_there, find)


def probe(package: str, seams: Iterable[Seam]) -> list[Probed]:
    """Probe all the seams of a package.

    Args:
        package: Distribution name, which is also the name that it is imported by.
        seams: Its seams.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    import_module(package)
    return [Probed(package, seam, _problem(seam)) for seam in seams]


def require(probed: Iterable[Probed]) -> None:
    """Raise an error for packages whose version breaks a seam.

    Args:
        probed: Probed seams, of one package or of several.

    Raises:
        DependencyError: A seam is broken. The message is about the first package with such a seam;
            the error carries the results of all probes.
    """
    probed = tuple(probed)
    broken = [found for found in probed if found.problem is not None]
    if not broken:
        return
    package = broken[0].package
    broken = [found for found in broken if found.package == package]
    named = [f"{it.seam.name} {it.problem} (used for {it.seam.reason})" for it in broken[:_NAMED]]
    more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    installed, tested = installed_version(package), tested_range(package)
    error = DependencyError(
        f"{package} {installed} is not supported: {'; '.join(named)}{more}.",
        f"Install a tested version: pip install '{package}{tested}'. All probes: "
        "engram env --probe",
        package=package,
        installed=installed,
        tested=tested,
        seams=[found.seam.name for found in broken],
    )
    error.probed = probed
    raise error


def installed_version(package: str) -> str | None:
    """Return the installed version of a package; None when it is not installed."""
    from importlib import metadata  # a tenth of the time of `engram --help`, which asks nothing

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def tested_range(package: str) -> str:
    """Return the tested versions of a base dependency, such as ``>=5.18,<5.25``.

    Empty where the toolkit runs from a folder without being installed.
    """
    from importlib import metadata

    try:
        stated = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return ""
    for requirement in stated:
        match = re.match(r"([A-Za-z0-9._-]+)\s*\(?([^;)]*)", requirement)
        if match and match[1].replace("_", "-").lower() == package.replace("_", "-").lower():
            return match[2].strip()
    return ""


def _problem(seam: Seam) -> str | None:
    try:
        return None if seam.probe() is True else "changed"
    except Exception as error:  # any exception in an unknown release is a result
        said = error.message if isinstance(error, EngramError) else " ".join(str(error).split())
        return f"changed: {type(error).__name__}: {said}"
