"""A disk that fills while a corpus or hash ids are written: the folder is named, none appears."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import BPE

COMMANDS = {
    "build": ["corpus", "build"],
    "build in two processes": ["corpus", "build", "-j", "2"],
    "hash": ["hash"],
    "hash to parquet": ["hash", "--format", "parquet"],
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text of 300 kB, whose tokens take more than every limit here."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"Paragraph {i} on the Milky Way.\n\n" for i in range(9000)))
    return path


def run(text, folder, name, most_bytes, *more):
    words = [sys.executable, "-m", "engram_cli", *COMMANDS[name], str(text), "-t", str(BPE)]
    return subprocess.run(
        [*words, "-o", "out", "--json", *more],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, -1)),
    )


# Room for no file, for no unit, and for no shard of ids, which are more than the tokens.
@pytest.mark.parametrize(
    ("name", "most_bytes"),
    [
        ("build", 0),
        ("build", 60_000),
        ("build in two processes", 60_000),
        ("hash", 0),
        ("hash", 1_500_000),
        ("hash to parquet", 1_500_000),
    ],
)
def test_the_folder_is_named_and_does_not_appear(text, tmp_path, name, most_bytes):
    done = run(text, tmp_path, name, most_bytes)
    assert done.returncode == 5, done.stderr
    assert done.stdout == ""
    error = json.loads(done.stderr.splitlines()[-1])
    assert error["code"] == "does_not_fit"
    assert error["details"]["errno"] == "EFBIG"
    assert Path(tmp_path, error["details"]["path"]) == tmp_path / "out"
    assert "Free some space" in error["hint"]
    left = [path.name for path in tmp_path.iterdir()]
    if most_bytes < 10**6:
        assert left == []
        return
    # The tokens are finished and kept.
    assert left == [".out.building"]
    done = run(text, tmp_path, name, 10**9, "--resume")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["documents"] == 9000
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_room_for_what_is_only_kept_for_the_next_run(text, tmp_path):
    """Statistics write nothing but caches: of compressed ids, primes and machine code."""
    cache = {name: str(tmp_path / name) for name in ("NUMBA_CACHE_DIR", "ENGRAM_CACHE")}
    done = subprocess.run(
        [sys.executable, "-m", "engram_cli", "hash", str(text), "-t", str(BPE), "--json"],
        env={**os.environ, **cache},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, -1)),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["documents"] == 9000
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size] == []
