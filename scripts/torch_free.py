"""Run the commands that need no torch, from the wheel, where torch and transformers are missing.

Clean environments are made under .range for this Python and for 3.12 and 3.13 where they are found:
the other base dependencies at their locked versions, and the built wheel.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from packaging.utils import canonicalize_name
from version_sets import OVERLAYS, ROOT, SetError, base_dependencies, locked, pip

LEFT_OUT = ("torch", "transformers")
OTHER_PYTHONS = ("3.12", "3.13")
TOKENIZER = ROOT / "tests" / "golden" / "tokenizers" / "local_bpe"
# In order: later lines read files of earlier ones.
COMMANDS = (
    "size --model gpt2 --json",
    "allocate --total 9.9B --active 993M --json",
    "env --json",
    "config ls",
    "config show demo --json",
    "config new llama --model llama-3.2-3b --budget 400M -o new.yaml",
    "config check new.yaml gpt2 demo --json",
    "report new.yaml --json",
    "report engram-27b --json",
    "corpus build text.txt -t {tokenizer} -o corpus --json",
    "corpus info corpus --json",
    "corpus verify corpus --json",
    "hash text.txt -c {memory} -o ids --json",
    "hash corpus -c {memory} --stats --json",
    "report {attached} --json",
    "lookup {attached} Alexander --json",
    "constants {attached} -o constants --json",
    "golden {attached} -o golden --json",
    "verify {attached} --headers-only --json",
    "report {released} --json",
    "verify {released} --json",
)


def run() -> list[str]:
    """Run all commands with every Python that is found; return the names of what failed."""
    failed = []
    try:
        wheel, files = build_wheel(), make_inputs()
    except (SetError, subprocess.CalledProcessError) as error:
        print(f"== plain: {error}\n{getattr(error, 'stderr', None) or ''}", flush=True)
        return ["plain"]
    for version, call in find_pythons().items():
        start = time.monotonic()
        try:
            problems = run_commands(make_environment(version, call, wheel), files, version)
        except (SetError, OSError) as error:
            problems = [str(error)]
        for problem in problems:
            print(f"   {problem}", flush=True)
        verdict = "FAILED" if problems else f"{len(COMMANDS)} commands ok"
        seconds = time.monotonic() - start
        shown = f"python {version} without {' and '.join(LEFT_OUT)}"
        print(f"== {shown}: {verdict}, {seconds:.0f} s", flush=True)
        failed += [f"python {version}"] if problems else []
    return failed


def find_pythons() -> dict[str, list[str]]:
    """Return how to call this Python and the others that are here, by their version."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = {own: [sys.executable]}
    for version in OTHER_PYTHONS:
        call = None if version == own else _find_python(version)
        if call is not None:
            found[version] = call
    missing = [version for version in OTHER_PYTHONS if version not in found]
    absent = f"; not found: {', '.join(missing)}" if missing else ""
    print(f"== plain: python {', '.join(found)}{absent}", flush=True)
    return found


def _find_python(version: str) -> list[str] | None:
    """Look for a Python on the path, then among pyenv's versions."""
    if _answers([f"python{version}"], version):
        return [f"python{version}"]
    if shutil.which("pyenv") is None:
        return None
    done = subprocess.run(
        ["pyenv", "versions", "--bare"], text=True, capture_output=True, check=False
    )
    for name in sorted(done.stdout.split(), reverse=True):
        if name.startswith(f"{version}.") and "/" not in name:
            return ["env", f"PYENV_VERSION={name}", "python"]
    return None


def _answers(call: list[str], version: str) -> bool:
    """Whether a call is a Python of that version; shims of version managers may be none."""
    try:
        done = subprocess.run(
            [*call, "--version"], text=True, capture_output=True, check=False, timeout=60
        )
    except OSError:
        return False
    return done.returncode == 0 and f"Python {version}." in done.stdout


def build_wheel() -> Path:
    """Build the toolkit's wheel from this folder, with the tools of this environment."""
    folder = OVERLAYS / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    words = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    pip("wheel", *words, str(ROOT))
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_inputs() -> dict[str, str]:
    """Write what the commands read, with torch where it takes torch: paths by their names."""
    folder = OVERLAYS / "inputs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    code = (
        "import sys, pathlib\n"
        "from support import sparse_folder, tiny\n"
        "from support.paths import BPE\n"
        "from engram.config.config_file import write_config\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "write_config(out / 'memory.yaml', tiny.memory_config(tokenizer=str(BPE)))\n"
        "tiny.attached_model(tiny.base_model('llama', out / 'base'), out / 'attached')\n"
        "sparse_folder.v41(out / 'released')\n"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        text=True,
        stderr=subprocess.PIPE,
    )
    return {
        "tokenizer": str(TOKENIZER),
        "memory": str(folder / "memory.yaml"),
        "attached": str(folder / "attached"),
        "released": str(folder / "released"),
    }


def make_environment(version: str, call: list[str], wheel: Path) -> Path:
    """Make a clean environment with the wheel and all it needs but torch and transformers.

    Returns:
        The environment's folder of programs.

    Raises:
        SetError: It cannot be made.
    """
    folder = OVERLAYS / f"python{version}"
    done = subprocess.run(
        [*call, "-m", "venv", "--clear", str(folder)], text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise SetError(f"python {version}: no environment: {done.stdout}{done.stderr}")
    python = folder / "bin" / "python"
    names = [requirement.name for requirement in base_dependencies()]
    pins = [f"{n}=={locked()[canonicalize_name(n)]}" for n in names if n not in LEFT_OUT]
    lock = str(ROOT / "constraints.txt")
    pip("install", "--quiet", "-c", lock, *pins, python=python)
    pip("install", "--quiet", "--no-deps", str(wheel), python=python)
    return folder / "bin"


def run_commands(programs: Path, files: dict[str, str], version: str) -> list[str]:
    """Run the commands in an empty folder; return a line for each that went wrong."""
    folder = OVERLAYS / f"run{version}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "text.txt").write_text("Only Alexander the Great.\nThe Milky Way.\n\n" * 40)
    hidden = ("PYTHONPATH", "PYENV_VERSION")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"TERM": "dumb", "ENGRAM_CACHE": str(folder / "cache")}
    problems = []

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=folder, env=environment, text=True, capture_output=True, check=False
        )

    for module in LEFT_OUT:
        if call(str(programs / "python"), "-c", f"import {module}").returncode == 0:
            problems.append(f"{module} is there, though nothing installed it")
    for line in COMMANDS:
        done = call(str(programs / "engram"), *line.format(**files).split())
        if done.returncode:
            problems.append(f"engram {line}: exit {done.returncode}: {done.stderr.strip()}")
        elif "--json" in line and "schema" not in json.loads(done.stdout):
            problems.append(f"engram {line}: not the JSON that it should print")
    return problems
