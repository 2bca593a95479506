"""A disk that fills while a corpus or hash ids are written: the folder is named, none appears."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from support.cli import run_apart
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


def run_limited(text, folder, name, most_bytes, *more):
    return run_apart(
        *(*COMMANDS[name], text, "-t", BPE, "-o", "out", "--json", *more),
        cwd=folder,
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
    error = run_limited(text, tmp_path, name, most_bytes).error(5)
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
    assert run_limited(text, tmp_path, name, 10**9, "--resume").json()["documents"] == 9000
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_room_for_what_is_only_kept_for_the_next_run(text, tmp_path):
    """Statistics write nothing but caches: of compressed ids, primes and machine code."""
    cache = {name: str(tmp_path / name) for name in ("NUMBA_CACHE_DIR", "ENGRAM_CACHE")}
    done = run_apart(
        *("hash", text, "-t", BPE, "--json"),
        environment=cache,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, -1)),
    )
    assert done.json()["documents"] == 9000
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size] == []
