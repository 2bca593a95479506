"""Checks for all folders of results: their files, and the boundaries of documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.checks import Check
from engram.corpus.results.result_folder import MANIFEST, damage
from engram.storage.npy_files import read_npy
from engram.units import plural


def check_of(name: str, wrong: list[str], right: str) -> Check:
    """Return a check with the first five problems, or with a description if there are none."""
    more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return Check(name, not wrong, "; ".join(wrong[:5]) + more if wrong else right)


def check_files(folder: Path, manifest: dict[str, Any], used: Iterable[str]) -> Check:
    """Check that a folder has exactly the files of its manifest, byte for byte.

    Args:
        folder: The folder.
        manifest: Its manifest.
        used: Names of the files of its shards.
    """
    listed = {str(file["name"]) for file in manifest["files"]}
    there = {entry.name for entry in folder.iterdir()}
    wrong = [f"{name} is foreign" for name in sorted(there - {*listed, MANIFEST})]
    wrong += damage(folder, manifest, digests=True)
    wrong += [f"{name} has no digest" for name in sorted(set(used) - listed)]
    size = sum(int(file["bytes"]) for file in manifest["files"])
    return check_of(
        "files", wrong, f"{plural(len(listed), 'file')}, {size:,} bytes, all digests equal"
    )


def read_shards(
    folder: Path, manifest: dict[str, Any], axes: Mapping[str, int], hint: str
) -> list[list[NDArray[Any]]]:
    """Map the arrays of every shard, see `read_npy`.

    Args:
        folder: The folder.
        manifest: Its manifest.
        axes: Axes of the arrays, by what they hold.
        hint: Next step after an error.
    """
    return [
        [read_npy(folder / shard[f"{kind}_file"], n, hint=hint) for kind, n in axes.items()]
        for shard in manifest["shards"]
    ]


def check_counts(manifest: dict[str, Any], wrong: list[str], more: str = "") -> Check:
    """Check that the parts of a folder add up to the counts of its manifest.

    Args:
        manifest: The manifest.
        wrong: What else is wrong with the counts.
        more: What else is right with them.
    """
    counts = manifest["counts"]
    for name in ("shards", "units"):
        for kind in ("tokens", "documents"):
            total = sum(int(entry[kind]) for entry in manifest.get(name, ()))
            if name in manifest and total != counts[kind]:
                wrong.append(f"the {name} have {total:,} {kind}, not {counts[kind]:,}")
    right = f"{plural(counts['documents'], 'document')}, {plural(counts['tokens'], 'token')}"
    return check_of("counts", wrong, right + more)


def wrong_boundaries(name: str, bounds: NDArray[Any], n_tokens: int) -> str:
    """Return the problem of the boundaries of a shard's documents; empty if there is none.

    Args:
        name: Name of their file.
        bounds: The boundaries ``[documents + 1]``.
        n_tokens: Tokens of the shard.
    """
    if bounds.dtype != np.int64 or bounds.ndim != 1 or not len(bounds):
        return f"{name} is {bounds.dtype} {list(bounds.shape)}"
    if bounds[0] != 0 or bounds[-1] != n_tokens:
        return f"{name} goes from {bounds[0]} to {bounds[-1]}, not 0 to {n_tokens}"
    if (np.diff(bounds) < 0).any():
        return f"{name} falls at document {int(np.argmax(np.diff(bounds) < 0))}"
    return ""
