"""Checks a folder of hash ids: its files and counts, and a sample of ids against their tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.corpus.checks import Check, check_of
from engram.corpus.folder import MANIFEST, damage
from engram.corpus.manifests import ID_SHARDS_SHAPE
from engram.corpus.npy_files import read_npy
from engram.errors import CorruptFileError, EngramError
from engram.json_files import check_shape
from engram.units import plural

_HINT = "Hash the text again."
_KINDS = ("tokens", "documents", "ids")
_SAMPLED_TOKENS = 2**16
_SAMPLED_SHARDS = 3


def verify_hashes(folder: Path, manifest: dict[str, Any]) -> list[Check]:
    """Check a folder of hash ids; see `engram.corpus.verify.verify_corpus`.

    Args:
        folder: The folder.
        manifest: Its manifest, of the shape of hash ids.

    Raises:
        CorruptFileError: A file that is as it was written cannot be read.
    """
    files = _check_files(folder, manifest)
    if not files.ok:
        return [files]
    if manifest["format"] != "npy":
        detail = f"not compared: the shards are {manifest['format']} files"
        return [files, Check("counts", None, detail), Check("hash ids", None, detail)]
    check_shape(manifest, ID_SHARDS_SHAPE, str(folder / MANIFEST), hint=_HINT)
    shards = [[_load(folder / shard[f"{kind}_file"]) for kind in _KINDS] for shard in
              manifest["shards"]]  # fmt: skip
    counts = _check_counts(manifest, shards)
    if not counts.ok:
        return [files, counts]
    return [files, counts, _check_ids(folder, manifest, shards)]


def _check_files(folder: Path, manifest: dict[str, Any]) -> Check:
    names = {str(file["name"]) for file in manifest["files"]}
    there = {entry.name for entry in folder.iterdir()}
    wrong = [f"{name} is foreign" for name in sorted(there - {*names, MANIFEST})]
    wrong += damage(folder, manifest, digests=True)
    size = sum(int(file["bytes"]) for file in manifest["files"])
    return check_of(
        "files", wrong, f"{plural(len(names), 'file')}, {size:,} bytes, all digests equal"
    )


def _load(path: Path) -> NDArray[Any]:
    array = read_npy(path, hint=_HINT)
    if not array.ndim:
        raise CorruptFileError(f"{path} holds one number, not a row.", _HINT, file=str(path))
    return array


def _check_counts(manifest: dict[str, Any], shards: list[list[NDArray[Any]]]) -> Check:
    wrong, columns = [], manifest["counts"]["ids"] // max(manifest["counts"]["tokens"], 1)
    for entry, (tokens, bounds, ids) in zip(manifest["shards"], shards, strict=True):
        found = (len(tokens), len(bounds) - 1, len(ids), int(np.prod(ids.shape[1:])))
        expected = (entry["tokens"], entry["documents"], entry["tokens"], columns)
        if found != expected or bounds[0] != 0 or bounds[-1] != len(tokens):
            wrong.append(
                f"{entry['ids_file']} and its tokens hold {found}, not {expected} tokens, "
                "documents, rows of ids and ids a token"
            )
    for kind in ("tokens", "documents"):
        total = sum(int(entry[kind]) for entry in manifest["shards"])
        if total != manifest["counts"][kind]:
            wrong.append(f"the shards have {total:,} {kind}, not {manifest['counts'][kind]:,}")
    counts = manifest["counts"]
    right = f"{plural(counts['documents'], 'document')}, {plural(counts['tokens'], 'token')}"
    return check_of("counts", wrong, f"{right}, {counts['ids']:,} ids")


def _check_ids(folder: Path, manifest: dict[str, Any], shards: list[list[NDArray[Any]]]) -> Check:
    """Hash the first documents of some shards again."""
    wrong, compared = [], 0
    try:
        addresses = Addresses.from_dict(manifest["addresses"])
        if manifest["token_map_file"] is not None:
            addresses = addresses.with_map(np.array(_load(folder / manifest["token_map_file"])))
        hasher = Hasher(addresses)
        for entry, (tokens, bounds, ids) in list(zip(manifest["shards"], shards, strict=True))[
            :_SAMPLED_SHARDS
        ]:
            documents = int(np.searchsorted(bounds, _SAMPLED_TOKENS, side="right")) - 1
            bounds = np.array(bounds[: documents + 1]) if documents else bounds[:0]
            if not documents:
                continue
            size = int(bounds[-1])
            found = hasher.hash_documents(np.array(tokens[:size]), bounds)
            if not np.array_equal(found, ids[:size]):
                wrong.append(f"{entry['ids_file']} holds other ids than those of its tokens")
            compared += size
    except EngramError as error:
        wrong.append(error.message)
    return check_of("hash ids", wrong, f"{plural(compared, 'token')} hashed again are equal")
