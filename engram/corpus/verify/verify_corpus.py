"""Verifies a corpus: its files, counts and token ids, and a sample against the original text."""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from engram.addressing.tokenizer_files import TokenizerFile, describe_tokenizer, load_tokenizer
from engram.arguments import checked
from engram.checks import Check, Checks
from engram.corpus.results.manifests import CORPUS_SCHEMA, HASHES_SCHEMA, read_manifest
from engram.corpus.text.readers import TextReader
from engram.corpus.text.sources import find_sources
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens.tokenise import tokenise
from engram.corpus.verify.shard_checks import (
    Shards,
    check_boundaries,
    check_files,
    check_hashes,
    check_of,
    check_shard_counts,
    check_token_ids,
    read_shards,
)
from engram.errors import EngramError, MissingFileError
from engram.units import plural


@checked(sample_units=0, sample_documents=1)
def verify_corpus(
    folder: str | Path,
    tokenizer: str | Path | TokenizerFile | None = None,
    *,
    sample_units: int = 3,
    sample_documents: int = 1000,
) -> Checks:
    """Check a corpus, or a folder of hash ids.

    Args:
        folder: Folder that `engram.build_corpus` or `engram.hash_text` wrote.
        tokenizer: The corpus's tokenizer, or its name or path; the one that the manifest names when
            None.
        sample_units: Units whose first documents are tokenised again, where the text is still
            there; always the same ones for the same corpus.
        sample_documents: Documents of each.

    Returns:
        The checks; `to_dict()` is what ``engram corpus verify --json`` prints. Later checks are
        left out when the files are not what they were.

    Raises:
        MissingFileError: It is not a corpus, or the given tokenizer is not there.
        CorruptFileError: The manifest cannot be read.

    Examples:
        >>> import engram
        >>> engram.verify_corpus("shards").ok
        True
    """
    own = None if tokenizer is None else describe_tokenizer(tokenizer)
    return Checks(
        {"schema": CORPUS_SCHEMA, "folder": str(folder)},
        tuple(_checks(Path(folder), own, sample_units, sample_documents)),
    )


def _checks(
    folder: Path,
    own: TokenizerFile | None,
    sample_units: int,
    sample_documents: int,
) -> list[Check]:
    manifest = read_manifest(folder, CORPUS_SCHEMA, HASHES_SCHEMA)
    files = check_files(folder, manifest)
    if not files.ok:
        return [files]
    if manifest["schema"] == HASHES_SCHEMA:
        return [files, *check_hashes(folder, manifest)]
    shards = read_shards(folder, manifest, "Build the corpus again.", {"tokens": 1, "documents": 1})
    checks = [files, check_shard_counts(manifest, shards), check_boundaries(shards)]
    if all(check.ok for check in checks):
        checks.append(check_token_ids(manifest, shards))
    if all(check.ok for check in checks):
        checks.append(_check_sample(manifest, shards, own, sample_units, sample_documents))
    return checks


def _check_sample(
    manifest: dict[str, Any],
    shards: Shards,
    own: TokenizerFile | None,
    sample_units: int,
    sample_documents: int,
) -> Check:
    """Tokenise the first documents of some units again."""
    name = "text"
    try:
        tokenizer = load_tokenizer(manifest["tokenizer"]["name"]) if own is None else own
    except MissingFileError as error:
        return Check(name, None, f"not compared: {error.message}")
    if tokenizer.digest != manifest["tokenizer"]["sha256"]:
        detail = f"the tokenizer {tokenizer.name} is not the one that the corpus was built with"
        return Check(name, False, f"{detail}: its digest is {tokenizer.digest}")
    units = manifest["units"]
    firsts = [0, *accumulate(unit["documents"] for unit in units)]
    chosen = random.Random(len(units)).sample(range(len(units)), min(sample_units, len(units)))
    compared, missing, wrong = 0, set[str](), []
    for index in sorted(chosen):
        unit, first = units[index], firsts[index]
        gone = [entry["name"] for entry in unit["sources"] if not Path(entry["name"]).is_file()]
        if gone:
            missing.update(gone)
            continue
        numbers = range(first, first + min(sample_documents, unit["documents"]))
        for number, found in zip(numbers, _documents(unit, manifest, tokenizer), strict=False):
            if not np.array_equal(found, _document(shards, number)):
                wrong.append(f"document {number} is not what {unit['sources'][0]['name']} holds")
                break
            compared += 1
    if not compared and not wrong:
        detail = f"{', '.join(sorted(missing)[:3])} is not there" if missing else "no documents"
        return Check(name, None, f"not compared: {detail}")
    left = f"; not there: {plural(len(missing), 'file')}" if missing else ""
    same = (
        f"{plural(compared, 'document')} tokenised again {'is' if compared == 1 else 'are'} equal"
    )
    return check_of(name, wrong, same + left)


def _documents(
    unit: dict[str, Any], manifest: dict[str, Any], tokenizer: TokenizerFile
) -> Iterator[Any]:
    """Tokenise a unit again; yield its documents and, last, None, which equals no document."""
    sources = [
        replace(source, begin=entry["begin"], end=entry["end"])
        for entry in unit["sources"]
        for source in find_sources(entry["name"])[0]
    ]
    options = TextOptions(
        split=manifest["split"], text_key=manifest["text_key"], on_error=manifest["on_error"]
    )
    reader = TextReader(sources, options)
    has_eos = manifest["tokenizer"]["eos_id"] is not None
    with suppress(EngramError):  # the text has changed
        blocks = reader.blocks()
        for batch in tokenise(blocks, tokenizer, add_eos=has_eos, wrong=reader.wrong):
            for start, end in pairwise(batch.boundaries):
                yield batch.tokens[start:end]
    yield None


def _document(shards: Shards, index: int) -> Any:
    for _, tokens, bounds in shards:
        if index < len(bounds) - 1:
            return tokens[bounds[index] : bounds[index + 1]]
        index -= len(bounds) - 1
    return None
