"""Verifies a corpus: its files, counts and token ids, and a sample against the original text."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import load_tokenizer
from engram.checks import Check, Checks
from engram.corpus.results.manifests import CORPUS_SCHEMA, HASHES_SCHEMA, read_manifest
from engram.corpus.text.readers import TextReader
from engram.corpus.text.sources import find_sources
from engram.corpus.tokens.tokenise import token_dtype, tokenise
from engram.corpus.verify.result_checks import (
    check_counts,
    check_files,
    check_of,
    read_shards,
    wrong_boundaries,
)
from engram.corpus.verify.verify_hashes import verify_hashes
from engram.errors import EngramError, MissingFileError
from engram.units import plural

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile

_CHUNK = 2**20
_KINDS = ("tokens", "documents")


def verify_corpus(
    folder: str | Path,
    find_tokenizer: Callable[[str], TokenizerFile] = load_tokenizer,
    *,
    sample_units: int = 3,
    sample_documents: int = 1000,
) -> Checks:
    """Check a corpus, or a folder of hash ids.

    Args:
        folder: Folder that `engram.build_corpus` or `engram.hash_text` wrote.
        find_tokenizer: Reads the tokenizer that the manifest names; may raise MissingFileError.
        sample_units: Units whose first documents are tokenised again, where the text is still
            there; always the same ones for the same corpus.
        sample_documents: Documents of each.

    Returns:
        The checks; `to_dict()` is what ``engram corpus verify --json`` prints. Later checks are
        left out when the files are not what they were.

    Raises:
        MissingFileError: It is not a corpus.
        CorruptFileError: The manifest cannot be read.

    Examples:
        >>> import engram
        >>> engram.verify_corpus("shards").ok
        True
    """
    about = {"schema": CORPUS_SCHEMA, "folder": str(folder)}
    found = _checks(Path(folder), find_tokenizer, sample_units, sample_documents)
    return Checks(about, tuple(found))


def _checks(
    folder: Path,
    find_tokenizer: Callable[[str], TokenizerFile],
    sample_units: int,
    sample_documents: int,
) -> list[Check]:
    manifest = read_manifest(folder, CORPUS_SCHEMA, HASHES_SCHEMA)
    if manifest["schema"] == HASHES_SCHEMA:
        return verify_hashes(folder, manifest)
    used = [shard[f"{kind}_file"] for shard in manifest["shards"] for kind in _KINDS]
    files = check_files(folder, manifest, used)
    if not files.ok:
        return [files]
    shards = read_shards(folder, manifest, dict.fromkeys(_KINDS, 1), "Build the corpus again.")
    checks = [files, _check_counts(manifest, shards), _check_documents(manifest, shards)]
    if all(check.ok for check in checks):
        checks.append(_check_ids(manifest, shards))
    if all(check.ok for check in checks):
        checks.append(
            _check_sample(manifest, shards, find_tokenizer, sample_units, sample_documents)
        )
    return checks


def _check_counts(manifest: dict[str, Any], shards: list[list[NDArray[Any]]]) -> Check:
    wrong = []
    for entry, (tokens, bounds) in zip(manifest["shards"], shards, strict=True):
        if (len(tokens), len(bounds) - 1) != (entry["tokens"], entry["documents"]):
            wrong.append(
                f"{entry['tokens_file']}: {plural(len(tokens), 'token')} and "
                f"{plural(len(bounds) - 1, 'document')},"
                f" not {entry['tokens']:,} and {entry['documents']:,}"
            )
    return check_counts(manifest, wrong)


def _check_documents(manifest: dict[str, Any], shards: list[list[NDArray[Any]]]) -> Check:
    wrong = [
        wrong_boundaries(entry["documents_file"], bounds, len(tokens))
        for entry, (tokens, bounds) in zip(manifest["shards"], shards, strict=True)
    ]
    right = "boundaries rise from 0 to the end of every shard"
    return check_of("documents", list(filter(None, wrong)), right)


def _check_ids(manifest: dict[str, Any], shards: list[list[NDArray[Any]]]) -> Check:
    tokenizer, wrong = manifest["tokenizer"], []
    size, end = tokenizer["vocab_size"], tokenizer["eos_id"]
    for entry, (tokens, bounds) in zip(manifest["shards"], shards, strict=True):
        name = entry["tokens_file"]
        if tokens.dtype != token_dtype(size):
            wrong.append(f"{name} is {tokens.dtype} {list(tokens.shape)}")
            continue
        parts = (tokens[at : at + _CHUNK] for at in range(0, len(tokens), _CHUNK))
        highest = max((int(part.max()) for part in parts), default=-1)
        if highest >= size:
            wrong.append(f"{name} holds the id {highest}; the vocabulary has {size}")
        lengths = np.diff(bounds)
        if end is not None and ((lengths == 0).any() or (tokens[bounds[1:] - 1] != end).any()):
            wrong.append(f"{name} has a document that does not end with the id {end}")
    ends = f", every document ends with {end}" if end is not None else ""
    return check_of("token ids", wrong, f"all below {size:,}{ends}")


def _check_sample(
    manifest: dict[str, Any],
    shards: list[list[NDArray[Any]]],
    find_tokenizer: Callable[[str], TokenizerFile],
    sample_units: int,
    sample_documents: int,
) -> Check:
    """Tokenise the first documents of some units again."""
    name = "text"
    try:
        tokenizer = find_tokenizer(manifest["tokenizer"]["name"])
    except MissingFileError as error:
        return Check(name, None, f"not compared: {error.message}")
    if tokenizer.digest != manifest["tokenizer"]["sha256"]:
        detail = f"the tokenizer {tokenizer.name} is not the one that the corpus was built with"
        return Check(name, False, f"{detail}: its digest is {tokenizer.digest}")
    units = manifest["units"]
    firsts = np.cumsum([0, *(unit["documents"] for unit in units)])
    chosen = random.Random(len(units)).sample(range(len(units)), min(sample_units, len(units)))
    compared, missing, wrong = 0, set[str](), []
    for index in sorted(chosen):
        unit = units[index]
        gone = [entry["name"] for entry in unit["sources"] if not Path(entry["name"]).is_file()]
        if gone:
            missing.update(gone)
            continue
        document = int(firsts[index])
        for found in _documents(unit, manifest, tokenizer, sample_documents):
            if not np.array_equal(found, _document(shards, document)):
                wrong.append(f"document {document} is not what {unit['sources'][0]['name']} holds")
                break
            document += 1
        compared += document - int(firsts[index])
    if not compared and not wrong:
        detail = f"{', '.join(sorted(missing)[:3])} is not there" if missing else "no documents"
        return Check(name, None, f"not compared: {detail}")
    left = f"; not there: {plural(len(missing), 'file')}" if missing else ""
    are = "is" if compared == 1 else "are"
    documents = plural(compared, "document")
    return check_of(name, wrong, f"{documents} tokenised again {are} equal{left}")


def _documents(
    unit: dict[str, Any], manifest: dict[str, Any], tokenizer: TokenizerFile, most: int
) -> Iterator[NDArray[Any]]:
    sources = [
        replace(source, begin=entry["begin"], end=entry["end"])
        for entry in unit["sources"]
        for source in find_sources(entry["name"])[0]
    ]
    reader = TextReader(
        sources,
        split=manifest["split"],
        text_key=manifest["text_key"],
        on_error=manifest["on_error"],
    )
    left = min(most, unit["documents"])
    has_eos = manifest["tokenizer"]["eos_id"] is not None
    try:
        blocks = reader.blocks()
        for batch in tokenise(blocks, tokenizer, add_eos=has_eos, wrong=reader.wrong):
            bounds = batch.boundaries
            for start, end in pairwise(bounds):
                if not left:
                    return
                left -= 1
                yield batch.tokens[start:end]
    except EngramError:
        yield np.empty(0)  # equal to no document, since the text has changed
    if left:
        yield np.empty(0)


def _document(shards: list[list[NDArray[Any]]], index: int) -> Any:
    for tokens, bounds in shards:
        if index < len(bounds) - 1:
            return tokens[bounds[index] : bounds[index + 1]]
        index -= len(bounds) - 1
    return None
