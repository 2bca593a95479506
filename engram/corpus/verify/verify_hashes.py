"""Verifies a folder of hash ids: its files and counts, and a sample of ids against their tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.checks import Check
from engram.corpus.results.manifests import ID_SHARDS_SHAPE
from engram.corpus.results.result_folder import MANIFEST
from engram.corpus.verify.result_checks import (
    check_counts,
    check_files,
    check_of,
    read_shards,
    wrong_boundaries,
)
from engram.errors import EngramError
from engram.storage.json_files import check_shape
from engram.storage.npy_files import read_npy
from engram.units import plural

_HINT = "Hash the text again."
_AXES = {"tokens": 1, "documents": 1, "ids": 3}
_SAMPLED_TOKENS = 2**16
_SAMPLED_SHARDS = 3


def verify_hashes(folder: Path, manifest: dict[str, Any]) -> list[Check]:
    """Check a folder of hash ids; see `engram.corpus.verify.verify_corpus.verify_corpus`.

    Args:
        folder: The folder.
        manifest: Its manifest, of the shape of hash ids.

    Raises:
        CorruptFileError: An unchanged file cannot be read.
    """
    used = [
        str(name)
        for shard in manifest["shards"]
        for key, name in shard.items()
        if key == "file" or key.endswith("_file")
    ]
    files = check_files(folder, manifest, used)
    if not files.ok:
        return [files]
    if manifest["format"] != "npy":
        detail = f"not compared: the shards are {manifest['format']} files"
        return [files, Check("counts", None, detail), Check("hash ids", None, detail)]
    check_shape(manifest, ID_SHARDS_SHAPE, str(folder / MANIFEST), hint=_HINT)
    shards = read_shards(folder, manifest, _AXES, _HINT)
    counts = _check_counts(manifest, shards)
    if not counts.ok:
        return [files, counts]
    return [files, counts, _check_ids(folder, manifest, shards)]


def _check_counts(manifest: dict[str, Any], shards: list[list[NDArray[Any]]]) -> Check:
    wrong, columns = [], manifest["counts"]["ids"] // max(manifest["counts"]["tokens"], 1)
    for entry, (tokens, bounds, ids) in zip(manifest["shards"], shards, strict=True):
        found = (len(tokens), len(bounds) - 1, len(ids), int(np.prod(ids.shape[1:])))
        expected = (entry["tokens"], entry["documents"], entry["tokens"], columns)
        if found != expected:
            wrong.append(
                f"{entry['ids_file']} and its tokens hold {found}, not {expected} tokens, "
                "documents, rows of ids and ids a token"
            )
        elif fault := wrong_boundaries(entry["documents_file"], bounds, len(tokens)):
            wrong.append(fault)
    return check_counts(manifest, wrong, f", {manifest['counts']['ids']:,} ids")


def _check_ids(folder: Path, manifest: dict[str, Any], shards: list[list[NDArray[Any]]]) -> Check:
    """Hash the first tokens of some shards again; an id follows from the tokens before it."""
    wrong, compared = [], 0
    try:
        addresses = Addresses.from_dict(manifest["addresses"])
        if manifest["token_map_file"] is not None:
            addresses = addresses.with_map(
                np.array(read_npy(folder / manifest["token_map_file"], 1, hint=_HINT))
            )
        hasher = Hasher(addresses)
        for entry, (tokens, bounds, ids) in list(zip(manifest["shards"], shards, strict=True))[
            :_SAMPLED_SHARDS
        ]:
            size = min(len(tokens), _SAMPLED_TOKENS)
            if not size:
                continue
            starts = bounds[: np.searchsorted(bounds, size)]
            found = hasher.hash_documents(np.array(tokens[:size]), np.append(starts, size))
            if not np.array_equal(found, ids[:size]):
                wrong.append(f"{entry['ids_file']} holds other ids than those of its tokens")
            compared += size
    except EngramError as error:
        wrong.append(error.message)
    return check_of("hash ids", wrong, f"{plural(compared, 'token')} hashed again are equal")
