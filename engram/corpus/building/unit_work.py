"""One unit of work of a corpus: its documents to token ids, in separate files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engram.corpus.building.units import Unit
from engram.corpus.results.manifests import UNIT_SHAPE
from engram.corpus.text.readers import MAX_LISTED_PROBLEMS, TextReader
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens.fast_tokenise import FastEncoder
from engram.corpus.tokens.tokenise import (
    TokenBatch,
    cut_batches,
    fast_encoder,
    token_dtype,
    tokenise,
)
from engram.errors import MismatchError
from engram.storage.files import are_as_digested
from engram.storage.json_files import find_json

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile

# Called with the bytes of text read so far.
Report = Callable[[int], None]


@dataclass(frozen=True)
class UnitTask:
    """A unit to be done.

    Attributes:
        index: Its number, from 0.
        unit: Its files and parts of files.
        rules: How it is tokenised.
        tokenizer: Name or path of the tokenizer.
        tokenizer_sha256: Its digest.
        folder: Where its files appear.
        text_bytes: Size of the whole text, which decides what tokenises it; None when not known.
    """

    index: int
    unit: Unit
    rules: TextOptions
    tokenizer: str
    tokenizer_sha256: str
    folder: Path
    text_bytes: int | None = None


@dataclass(frozen=True)
class UnitResult:
    """Result of a unit.

    Attributes:
        documents: Its documents.
        tokens: Its tokens.
        skipped: Documents that were left out.
        problems: Their problems, the first hundred.
        tokens_sha256: Digest of its token ids.
        lengths_sha256: Digest of its documents' lengths.
        engine: The tokenising library and the reason for it, as a sentence.
        problem: Reason for giving up the fast engine; empty if it was not given up.
    """

    documents: int
    tokens: int
    skipped: int
    problems: tuple[str, ...]
    tokens_sha256: str
    lengths_sha256: str
    engine: str
    problem: str


@dataclass(frozen=True)
class Notes:
    """Notes from tokenising a text.

    Attributes:
        skipped: Documents that were left out.
        problems: Their problems, the first hundred.
        engines: What tokenised it, as sentences; a line below says why, where it has to.
        warnings: Why the fast engine was given up, where it was.
    """

    skipped: int = 0
    problems: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of_units(cls, results: Sequence[UnitResult]) -> Notes:
        """Combine the notes of units."""
        problems = [problem for result in results for problem in result.problems]
        return cls(
            skipped=sum(result.skipped for result in results),
            problems=tuple(problems[:MAX_LISTED_PROBLEMS]),
            engines=tuple(sorted({result.engine for result in results})),
            warnings=tuple(sorted({result.problem for result in results} - {""})),
        )


def run_unit(task: UnitTask, report: Report) -> UnitResult:
    """Tokenise a unit and write its files; raise the errors of `encode_unit`.

    Args:
        task: The unit.
        report: Called with the bytes of the unit read so far.
    """
    with closing(encode_unit(task)) as parts:
        return write_unit(task, parts, report)


def encode_unit(task: UnitTask) -> Generator[TokenBatch | UnitResult]:
    """Tokenise a unit.

    Yields:
        Its documents and, last, its result.

    Raises:
        InputError: A document cannot be read or encoded.
        MismatchError: The tokenizer is no longer the one that the build started with.
    """
    tokenizer = _tokenizer(task.tokenizer)
    fast, engine = _fast_encoder(tokenizer, task.text_bytes)
    check_digest(tokenizer, task.tokenizer_sha256)
    rules = task.rules
    reader = TextReader(
        task.unit.sources,
        split=rules.splits_by,
        text_key=rules.text_key,
        on_error=rules.on_error,
    )
    documents = tokens = 0
    digests = hashlib.sha256(), hashlib.sha256()
    blocks, add_eos = reader.blocks(), rules.adds_eos
    for batch in tokenise(blocks, tokenizer, add_eos=add_eos, fast=fast, wrong=reader.wrong):
        for digest, data in zip(digests, _data(batch), strict=True):
            digest.update(data)
        documents += len(batch.boundaries) - 1
        tokens += len(batch.tokens)
        yield batch
    yield UnitResult(
        documents=documents,
        tokens=tokens,
        skipped=reader.skipped,
        problems=tuple(error.message for error in reader.errors),
        tokens_sha256=digests[0].hexdigest(),
        lengths_sha256=digests[1].hexdigest(),
        engine=engine,
        problem="" if fast is None else fast.problem,
    )


def write_unit(
    task: UnitTask, parts: Iterable[TokenBatch | UnitResult], report: Report
) -> UnitResult:
    """Write the files of a unit from the output of `encode_unit`, the one with the result last.

    Args:
        task: The unit.
        parts: Its documents and its result.
        report: Called with the bytes of the unit read so far.
    """
    with _file(task, "tokens").open("wb") as tokens, _file(task, "lengths").open("wb") as lengths:
        for part in parts:
            if isinstance(part, UnitResult):
                result = part
                continue
            for file, data in zip((tokens, lengths), _data(part), strict=True):
                file.write(data)
            report(part.read_bytes)
    # Not flushed to disk: a resumed build detects files torn by a power cut by their digests.
    _file(task, "json").write_text(json.dumps(asdict(result)), encoding="utf-8")
    return result


def keep_unit(task: UnitTask, folder: Path) -> None:
    """Move the files of a unit to the folder of finished units.

    Args:
        task: The unit, in the folder of finished ones.
        folder: The folder that `write_unit` wrote to.
    """
    for kind in ("tokens", "lengths", "json"):  # the last one marks the others as complete
        target = _file(task, kind)
        (folder / target.name).replace(target)


def behind(report: Report, before: int) -> Report:
    """Return a callback that adds `before` bytes of earlier units to the bytes of a unit."""
    return lambda read_bytes: report(before + read_bytes)


def finished_unit(task: UnitTask) -> UnitResult | None:
    """Return the result of a unit if its files are complete, else None."""
    values = find_json(_file(task, "json"), UNIT_SHAPE, file_names=True)
    if values is None or values.keys() != UNIT_SHAPE.keys():
        return None
    digests = {_file(task, kind).name: values[f"{kind}_sha256"] for kind in ("tokens", "lengths")}
    if not are_as_digested(task.folder, digests):
        return None
    return UnitResult(**{**values, "problems": tuple(values["problems"])})


def read_unit(task: UnitTask, vocab_size: int) -> Iterator[TokenBatch]:
    """Read the documents of a finished unit, in place.

    Yields:
        About 1M tokens of whole documents at a time; `read_bytes` is 0.
    """
    lengths = np.fromfile(_file(task, "lengths"), np.int64)
    if not len(lengths):
        return
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    tokens: Any = np.empty(0, token_dtype(vocab_size))
    if bounds[-1]:
        tokens = np.memmap(_file(task, "tokens"), token_dtype(vocab_size), "r")
    for start, end in pairwise(cut_batches(bounds)):
        first = bounds[start]
        yield TokenBatch(tokens[first : bounds[end]], bounds[start : end + 1] - first, 0)


def check_digest(tokenizer: TokenizerFile, sha256: str) -> None:
    """Check that a tokenizer is the one that tokens were made with.

    Raises:
        MismatchError: It is another one.
    """
    if tokenizer.digest != sha256:
        raise MismatchError(
            f"The tokenizer {tokenizer.name} is not the one that the tokens were made with: its "
            f"digest must be {sha256[:16]}..., got {tokenizer.digest[:16]}....",
            "Use that tokenizer, or build the corpus again.",
            tokenizer=tokenizer.name,
            expected=sha256,
            found=tokenizer.digest,
        )


def _data(batch: TokenBatch) -> tuple[bytes, bytes]:
    """Return the contents of a unit's files for a batch: tokens, and lengths of documents."""
    return batch.tokens.tobytes(), np.diff(batch.boundaries).tobytes()


def _file(task: UnitTask, kind: str) -> Path:
    return task.folder / f"unit-{task.index:06d}.{kind}"


@lru_cache(maxsize=1)
def _tokenizer(name: str) -> TokenizerFile:
    from engram.addressing.tokenizer_files import load_tokenizer

    return load_tokenizer(name)


@lru_cache(maxsize=1)
def _fast_encoder(
    tokenizer: TokenizerFile, text_bytes: int | None
) -> tuple[FastEncoder | None, str]:
    return fast_encoder(tokenizer, text_bytes)
