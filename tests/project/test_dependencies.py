"""The lock, the ranges and what runs them agree; no range is wider than what is tested."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from support import tiny
from support.paths import REPOSITORY, TESTS

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
BASE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = [
    Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines
]
LOCK = [
    line
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
    if line and line[0] != "#"
]
PINS = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in LOCK}


def test_the_lock_pins_versions_for_every_platform():
    names = [line.partition("==")[0] for line in LOCK]
    assert sorted(names, key=str.lower) == names
    assert len(PINS) == len(LOCK)
    for name, version in PINS.items():
        assert Version(version).local is None, name
        assert re.fullmatch(r"[\w.]+", version), name
    assert not {name for name in PINS if name.startswith(("nvidia-", "cuda-", "engram"))}


@pytest.mark.parametrize("requirement", [*BASE, *EXTRAS], ids=str)
def test_the_lock_lies_in_every_range(requirement):
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_base_dependencies_state_what_was_tested():
    for requirement in BASE:
        assert [part.operator for part in requirement.specifier].count(">=") == 1, requirement
    (transformers,) = (each for each in BASE if each.name == "transformers")
    # The bound is the minor release after the one that is locked.
    major, minor, *_ = Version(PINS["transformers"]).release
    assert f"<{major}.{minor + 1}" in str(transformers.specifier)


def imported(path):
    """Names of the packages that a file imports, inside of functions, too."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def test_every_package_that_the_library_imports_is_a_base_dependency_or_optional():
    stated = {canonicalize_name(each.name) for each in [*BASE, *EXTRAS]}
    modules = {"yaml": "pyyaml", "llvmlite": "numba"}  # numba comes with its llvmlite
    for path in [*(REPOSITORY / "engram").rglob("*.py"), *(REPOSITORY / "engram_cli").glob("*.py")]:
        for module in imported(path) - sys.stdlib_module_names - {"engram", "engram_cli"}:
            assert canonicalize_name(modules.get(module, module)) in stated, f"{path}: {module}"


def test_the_lock_is_what_make_and_the_readme_install():
    makefile, readme = (REPOSITORY / "Makefile").read_text(), (REPOSITORY / "README.md").read_text()
    recipe = makefile.partition("$(VENV)/installed: pyproject")[2].partition("\n\n")[0]
    installs = [line for line in recipe.splitlines() if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)
    assert "pip install -c constraints.txt -e ." in readme
    assert "pip install -e" not in readme


def test_the_range_runs_families_and_tests_that_there_are():
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    try:
        import range as version_range
        import version_sets
    finally:
        sys.path.remove(str(REPOSITORY / "scripts"))
    assert set(version_range.FAMILIES.split(",")) < set(tiny.SIZES)
    for name in version_range.TESTS:
        assert (TESTS / name).exists(), name
    assert version_sets.floor_pin(Requirement("typer>=0.26,<3")) == "typer==0.26"
    with pytest.raises(version_sets.SetError, match="one lowest version"):
        version_sets.floor_pin(Requirement("typer<3"))


def test_the_families_can_be_chosen():
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", "from support import tiny; print(tiny.FAMILIES)"],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": path, "ENGRAM_TEST_FAMILIES": "qwen3,gpt2"},
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip() == "['gpt2', 'qwen3']"
