"""Run the tests at both ends of pyproject.toml's ranges and at the lock (`make range`).

    python scripts/range.py [floor] [lock] [newest] [peers] [plain]

Attach, decode, save and load, the command line and figures are tested on four families with each
set of versions but that of the environment which runs this, mostly the lock: `make check` and
`make real` run all tests there. `peers` runs the tests with packages of others, at the lock: those
that train and evaluate what the toolkit makes, and those that write corpora which it reads; it
needs none of them.
`plain` runs the commands that need no torch from the built wheel, see `torch_free.py`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch_free
from version_sets import ROOT, SetError, VersionSet, installed, lay

SETS = ("floor", "lock", "newest")
FAMILIES = "gpt2,llama,gemma3_text,qwen3_moe"
TESTS = (
    *("checkpoints/attach/test_attach.py", "checkpoints/attach/test_attach_layouts.py"),
    *("checkpoints/attach/test_adapter.py", "checkpoints/convert/test_convert.py"),
    *("checkpoints/convert/test_published_names.py", "checkpoints/convert/test_gguf.py"),
    "checkpoints/convert/test_gguf_outputs.py",
    *("checkpoints/verify/test_behaviour.py", "hf/test_decode.py", "hf/test_generate.py"),
    *("hf/test_load_tables.py", "hf/test_masked_gaps.py", "hf/test_memory_arguments.py"),
    *("addressing/test_forms.py", "corpus/hash/test_hash_text.py"),
    *("project/test_help.py", "project/test_seams.py", "cli"),
    # Figures; pages need no package, and a browser to be tested.
    *("pictures/test_style.py", "pictures/test_size_plot.py", "pictures/test_report_plot.py"),
    *("pictures/test_allocation_plot.py", "pictures/test_stats_plot.py"),
    *("pictures/test_training_plot.py", "pictures/test_gates_plot.py"),
    "pictures/test_depth_plot.py",
)
# Examples of help pages are commands that the tests of the command line run, too.
WITHOUT = ("--deselect", "tests/project/test_help.py::test_every_example_runs")
# What is tested beside the toolkit. pytablewriter, of lm-eval, needs an older python-dateutil.
PEERS = (
    *("datasets==5.2.0", "lm-eval==0.4.13", "python-dateutil<3", "trl==1.16.0"),
    *("datatrove==0.10.1", "megatron-core==0.16.1"),
)
PEER_TESTS = ("training/test_peers.py", "corpus/foreign/test_real_writers.py")


def main(parts: list[str]) -> int:
    """Run the parts that were asked for, all of them by default; return an exit code."""
    unknown = set(parts) - {*SETS, "peers", "plain"}
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SETS)}, peers, plain")
        return 2
    parts = parts or [*SETS, "peers", "plain"]
    failed: list[str] = []
    seen = {tuple(installed().versions.values()): "this environment, for `make check`"}
    for name in (name for name in SETS if name in parts):
        try:
            laid = lay(name)
        except SetError as error:
            print(f"== {name}: {error}", flush=True)
            failed.append(name)
            continue
        shown = " ".join(f"{package} {version}" for package, version in laid.versions.items())
        print(f"== {name}: {shown}", flush=True)
        key = tuple(laid.versions.values())
        if key in seen:
            print(f"   the same versions as {seen[key]}, whose tests are run once", flush=True)
        elif not run_tests(laid, TESTS):
            failed.append(name)
        seen.setdefault(key, name)
    if "peers" in parts and not run_peers():
        failed.append("peers")
    if "plain" in parts:
        failed += torch_free.run()
    print(f"== range: {'FAILED: ' + ', '.join(failed) if failed else 'ok'}")
    return 1 if failed else 0


def run_peers() -> bool:
    """Run the tests that need other people's packages; return whether all passed."""
    try:
        laid = lay("peers", PEERS)
    except SetError as error:
        print(f"== peers: {error}", flush=True)
        return False
    print(f"== peers: {', '.join(PEERS)}", flush=True)
    return run_tests(laid, PEER_TESTS)


def run_tests(laid: VersionSet, tests: Sequence[str]) -> bool:
    """Run tests with a set of versions; return whether all passed."""
    files = [f"tests/{name}" for name in tests]
    environment = {**laid.environment, "ENGRAM_TEST_FAMILIES": FAMILIES, "OMP_NUM_THREADS": "1"}
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "worksteal"]
    command = [sys.executable, *words, "-m", "not real and not torture", *WITHOUT, *files]
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    print(f"   {laid.name} took {time.monotonic() - start:.0f} s", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
