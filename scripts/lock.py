"""Write constraints.txt: the version of every package that the toolkit's environment needs.

Run it in an environment into which `pip install -e '.[dev,assets,docs]'` went without constraints
(`make lock` does). A package that nothing needs any more is left out.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("dev", "assets", "docs")
HEADER = """\
# The whole tested set: what `pip install -e '.[dev,assets,docs]'` installs, and pip itself. The
# make targets and the README's install line use it; `make lock` renews it.
# torch 2.13.0 installs as the CPU build where the index offers one; a plain "torch" may pull
# several GB of CUDA packages.
"""


def closure(wanted: list[str]) -> dict[str, str]:
    """Return the installed version of each package that requirements lead to, by its name."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [Requirement(line) for line in wanted]
    while queue:
        requirement = queue.pop()
        for extra in ("", *sorted(requirement.extras)):
            key = (canonicalize_name(requirement.name), extra)
            if key in seen:
                continue
            seen.add(key)
            package = distribution(requirement.name)
            # A build of one platform ("+cpu") is not what others can install.
            found[package.metadata["Name"]] = Version(package.version).public
            for line in package.requires or []:
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    queue.append(needed)
    return found


def main() -> int:
    """Write constraints.txt beside pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    try:
        pinned = {**closure(wanted), "pip": version("pip")}
    except PackageNotFoundError as error:
        print(f"{error.name} is not installed here; run `make lock`", file=sys.stderr)
        return 1
    lines = [f"{name}=={pinned[name]}\n" for name in sorted(pinned, key=str.lower)]
    (ROOT / "constraints.txt").write_text(HEADER + "".join(lines))
    print(f"constraints.txt pins {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
