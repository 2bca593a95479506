"""Checks of folders of results by themselves: files, counts, boundaries, token ids, hash ids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.checks import Check
from engram.corpus.results.manifests import ID_SHARDS_SHAPE
from engram.corpus.results.result_folder import MANIFEST, damage
from engram.corpus.tokens.tokenise import token_dtype
from engram.errors import EngramError
from engram.storage.json_files import check_shape
from engram.storage.npy_files import read_npy
from engram.units import plural

# The entry of every shard in the manifest, and its arrays.
Shards = list[tuple[Any, ...]]

_HASH_AGAIN = "Hash the text again."
_SAMPLED_TOKENS = 2**16
_SAMPLED_SHARDS = 3


def check_of(name: str, wrong: list[str], right: str) -> Check:
    """Return a check with the first five problems, or with a description if there are none."""
    more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return Check(name, not wrong, "; ".join(wrong[:5]) + more if wrong else right)


def check_files(folder: Path, manifest: dict[str, Any]) -> Check:
    """Check that a folder has exactly the files of its manifest, byte for byte."""
    listed = {str(file["name"]) for file in manifest["files"]}
    there = {entry.name for entry in folder.iterdir()}
    used = {
        str(name)
        for shard in manifest["shards"]
        for key, name in shard.items()
        if key == "file" or key.endswith("_file")
    }
    wrong = [f"{name} is foreign" for name in sorted(there - {*listed, MANIFEST})]
    wrong += damage(folder, manifest, digests=True)
    wrong += [f"{name} has no digest" for name in sorted(used - listed)]
    size = sum(int(file["bytes"]) for file in manifest["files"])
    return check_of(
        "files", wrong, f"{plural(len(listed), 'file')}, {size:,} bytes, all digests equal"
    )


def read_shards(
    folder: Path, manifest: dict[str, Any], hint: str, axes: Mapping[str, int]
) -> Shards:
    """Map the arrays of every shard, see `read_npy`.

    Args:
        folder: The folder.
        manifest: Its manifest.
        hint: Next step after an error.
        axes: Axes of the arrays, by what they hold.
    """
    return [
        (
            shard,
            *(read_npy(folder / shard[f"{kind}_file"], n, hint=hint) for kind, n in axes.items()),
        )
        for shard in manifest["shards"]
    ]


def check_shard_counts(manifest: dict[str, Any], shards: Shards) -> Check:
    """Check that the shards of a corpus are as long as its manifest says."""
    wrong = [
        f"{entry['tokens_file']}: {plural(len(tokens), 'token')} and "
        f"{plural(len(bounds) - 1, 'document')},"
        f" not {entry['tokens']:,} and {entry['documents']:,}"
        for entry, tokens, bounds in shards
        if (len(tokens), len(bounds) - 1) != (entry["tokens"], entry["documents"])
    ]
    return _check_counts(manifest, wrong)


def check_boundaries(shards: Shards) -> Check:
    """Check the boundaries of the documents of a corpus."""
    wrong = [
        _wrong_boundaries(entry["documents_file"], bounds, len(tokens))
        for entry, tokens, bounds in shards
    ]
    return check_of(
        "documents",
        list(filter(None, wrong)),
        "boundaries rise from 0 to the end of every shard",
    )


def check_token_ids(manifest: dict[str, Any], shards: Shards) -> Check:
    """Check that the tokens of a corpus are those of its tokenizer, and end its documents."""
    size, end = manifest["tokenizer"]["vocab_size"], manifest["tokenizer"]["eos_id"]
    wrong = []
    for entry, tokens, bounds in shards:
        name = entry["tokens_file"]
        if tokens.dtype != token_dtype(size):
            wrong.append(f"{name} is {tokens.dtype} {list(tokens.shape)}")
            continue
        highest = int(tokens.max(initial=0))
        if highest >= size:
            wrong.append(f"{name} holds the id {highest}; the vocabulary has {size}")
        if end is not None and (not np.diff(bounds).all() or (tokens[bounds[1:] - 1] != end).any()):
            wrong.append(f"{name} has a document that does not end with the id {end}")
    ends = f", every document ends with {end}" if end is not None else ""
    return check_of("token ids", wrong, f"all below {size:,}{ends}")


def check_hashes(folder: Path, manifest: dict[str, Any]) -> list[Check]:
    """Check the counts and ids of a folder of hash ids whose files are whole.

    Raises:
        CorruptFileError: A file cannot be read.
    """
    if manifest["format"] != "npy":
        detail = f"not compared: the shards are {manifest['format']} files"
        return [Check("counts", None, detail), Check("hash ids", None, detail)]
    check_shape(manifest, ID_SHARDS_SHAPE, str(folder / MANIFEST), hint=_HASH_AGAIN)
    shards = read_shards(folder, manifest, _HASH_AGAIN, {"tokens": 1, "documents": 1, "ids": 3})
    wrong, columns = [], manifest["counts"]["ids"] // max(manifest["counts"]["tokens"], 1)
    for entry, tokens, bounds, ids in shards:
        found = (len(tokens), len(bounds) - 1, len(ids), int(np.prod(ids.shape[1:])))
        expected = (entry["tokens"], entry["documents"], entry["tokens"], columns)
        if found != expected:
            wrong.append(
                f"{entry['ids_file']} and its tokens hold {found}, not {expected} tokens, "
                "documents, rows of ids and ids a token"
            )
        elif fault := _wrong_boundaries(entry["documents_file"], bounds, len(tokens)):
            wrong.append(fault)
    counts = _check_counts(manifest, wrong, f", {manifest['counts']['ids']:,} ids")
    return [counts, _check_hash_ids(folder, manifest, shards)] if counts.ok else [counts]


def _check_hash_ids(folder: Path, manifest: dict[str, Any], shards: Shards) -> Check:
    """Hash the first tokens of some shards again; an id follows from the tokens before it."""
    wrong, compared = [], 0
    try:
        addresses = Addresses.from_dict(manifest["addresses"])
        if manifest["token_map_file"] is not None:
            token_map = read_npy(folder / manifest["token_map_file"], 1, hint=_HASH_AGAIN)
            addresses = addresses.with_map(np.array(token_map))
        hasher = Hasher(addresses)
        for entry, tokens, bounds, ids in shards[:_SAMPLED_SHARDS]:
            size = min(len(tokens), _SAMPLED_TOKENS)
            cut = np.append(bounds[: np.searchsorted(bounds, size)], size)
            found = hasher.hash_documents(np.array(tokens[:size]), cut)
            if not np.array_equal(found, ids[:size]):
                wrong.append(f"{entry['ids_file']} holds other ids than those of its tokens")
            compared += size
    except EngramError as error:
        wrong.append(error.message)
    return check_of("hash ids", wrong, f"{plural(compared, 'token')} hashed again are equal")


def _check_counts(manifest: dict[str, Any], wrong: list[str], more: str = "") -> Check:
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


def _wrong_boundaries(name: str, bounds: NDArray[Any], n_tokens: int) -> str:
    """Return the problem of the boundaries of a shard's documents; empty if there is none.

    Args:
        name: Name of their file.
        bounds: The boundaries ``[documents + 1]``.
        n_tokens: Tokens of the shard.
    """
    if bounds.dtype != np.int64 or not len(bounds):
        return f"{name} is {bounds.dtype} {list(bounds.shape)}"
    if bounds[0] != 0 or bounds[-1] != n_tokens:
        return f"{name} goes from {bounds[0]} to {bounds[-1]}, not 0 to {n_tokens}"
    falls = np.flatnonzero(np.diff(bounds) < 0)
    return f"{name} falls at document {falls[0]}" if len(falls) else ""
