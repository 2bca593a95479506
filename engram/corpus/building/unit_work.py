"""One unit of work of a corpus: its documents to token ids, in separate files."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from engram.addressing.tokenizer_files import TokenizerFile, load_tokenizer
from engram.corpus.building.units import Unit
from engram.corpus.results.manifests import UNIT_SHAPE
from engram.corpus.results.stored_corpus import Notes
from engram.corpus.text.blocks import Block
from engram.corpus.text.readers import TextReader
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens.fast_tokenise import FastEncoder
from engram.corpus.tokens.token_shards import check_digest
from engram.corpus.tokens.tokenise import (
    TokenBatch,
    cut_batches,
    fast_encoder,
    token_dtype,
    tokenise,
)
from engram.storage.files import Progress, are_as_digested
from engram.storage.json_files import find_json

# Called with the bytes of text read so far.
Report = Callable[[int], None]
# The arrays of a unit, each in a file.
_ARRAYS = ("tokens", "lengths")
# A process encodes all units with the same tokenizer.
_fast_encoder = lru_cache(maxsize=1)(fast_encoder)


@dataclass(frozen=True)
class UnitTask:
    """A unit to be done.

    Attributes:
        index: Its number, from 0.
        sources: Its files and parts of files.
        rules: How it is tokenised.
        tokenizer: Name or path of the tokenizer.
        tokenizer_sha256: Its digest.
        folder: Where its files appear.
        text_bytes: Size of the whole text, which decides what tokenises it; None when not known.
    """

    index: int
    sources: Unit
    rules: TextOptions
    tokenizer: str
    tokenizer_sha256: str
    folder: Path
    text_bytes: int | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of its text as stored; 0 for standard input."""
        return sum(source.size_bytes or 0 for source in self.sources)


@dataclass(frozen=True, kw_only=True)
class UnitResult(Notes):
    """Result of a unit, with its notes.

    Attributes:
        documents: Its documents.
        tokens: Its tokens.
        tokens_sha256: Digest of its token ids.
        lengths_sha256: Digest of its documents' lengths.
    """

    documents: int
    tokens: int
    tokens_sha256: str
    lengths_sha256: str


def encode_unit(task: UnitTask) -> Generator[TokenBatch | Notes]:
    """Tokenise a unit.

    Yields:
        Its documents and, last, its notes.

    Raises:
        InputError: A document cannot be read or encoded.
        MismatchError: The tokenizer is no longer the one that the build started with.
    """
    tokenizer = loaded_tokenizer(task.tokenizer, task.tokenizer_sha256)
    reader = TextReader(task.sources, task.rules)
    chosen = _fast_encoder(tokenizer, task.text_bytes)
    yield from encode(reader, reader.blocks(), tokenizer, chosen)


@lru_cache(maxsize=1)
def loaded_tokenizer(name: str, sha256: str) -> TokenizerFile:
    """Return the tokenizer of units, which a process and its forks load once.

    Raises:
        MismatchError: It is no longer the one that the build started with.
    """
    tokenizer = load_tokenizer(name)
    check_digest(tokenizer, name, sha256)
    return tokenizer


def encode(
    reader: TextReader,
    blocks: Iterable[Block],
    tokenizer: TokenizerFile,
    chosen: tuple[FastEncoder | None, str],
) -> Generator[TokenBatch | Notes]:
    """Tokenise a text.

    Args:
        reader: The text, which keeps its problems, and says whether documents get an end.
        blocks: Its documents.
        tokenizer: The tokenizer.
        chosen: What encodes it, from `fast_encoder`.

    Yields:
        Its documents and, last, its notes.

    Raises:
        InputError: A document cannot be read or encoded.
    """
    fast, engine = chosen
    adds_eos = reader.options.adds_eos
    yield from tokenise(blocks, tokenizer, add_eos=adds_eos, fast=fast, wrong=reader.wrong)
    yield Notes(
        skipped=reader.skipped,
        problems=tuple(error.message for error in reader.errors),
        engines=(engine,),
        warnings=(fast.problem,) if fast is not None and fast.problem else (),
    )


def reporting(
    tasks: Sequence[UnitTask], todo: Sequence[UnitTask], progress: Progress | None
) -> Report:
    """Return a report of the bytes of units to be done that tells the progress of all units.

    Args:
        tasks: All units.
        todo: Those to be done.
        progress: Called with the bytes of the text done so far and their total.
    """
    total = sum(task.size_bytes for task in tasks)
    before = total - sum(task.size_bytes for task in todo)
    highest = -1

    def report(read_bytes: int) -> None:
        nonlocal highest
        # Workers are ahead of the units that are counted, and a file's share is only about its own.
        done = min(before + read_bytes, total) if total else read_bytes
        if progress is not None and done > highest:
            highest = done
            progress(done, total or None)

    return report


def write_units(
    tasks: Sequence[UnitTask], encoded: Iterable[Iterator[TokenBatch | Notes]], report: Report
) -> Iterator[tuple[int, UnitResult]]:
    """Write the files of units, one after the other.

    Args:
        tasks: The units.
        encoded: The output of `encode_unit` for each of them.
        report: Called with the bytes of all the units that were read so far.

    Yields:
        The index and result of each unit when it is done.
    """
    before = 0
    for task, parts in zip(tasks, encoded, strict=True):
        yield task.index, write_unit(task, parts, report, before)
        before += task.size_bytes


def write_unit(
    task: UnitTask, parts: Iterable[TokenBatch | Notes], report: Report, before: int = 0
) -> UnitResult:
    """Write the files of a unit.

    Args:
        task: The unit.
        parts: The output of `encode_unit`.
        report: Called with the bytes read so far: of the unit, after those of earlier ones.
        before: Bytes of earlier units.
    """
    documents = tokens = 0
    digests = {kind: hashlib.sha256() for kind in _ARRAYS}
    with ExitStack() as stack:
        files = {kind: stack.enter_context(_file(task, kind).open("wb")) for kind in _ARRAYS}
        for part in parts:
            if isinstance(part, Notes):
                notes = part
                continue
            arrays = {"tokens": part.tokens, "lengths": np.diff(part.boundaries)}
            for kind, array in arrays.items():
                data = array.tobytes()
                files[kind].write(data)
                digests[kind].update(data)
            documents += len(part.boundaries) - 1
            tokens += len(part.tokens)
            report(before + part.read_bytes)
    result = UnitResult(
        documents=documents,
        tokens=tokens,
        tokens_sha256=digests["tokens"].hexdigest(),
        lengths_sha256=digests["lengths"].hexdigest(),
        **vars(notes),
    )
    # Not flushed to disk: a resumed build detects files torn by a power cut by their digests.
    _file(task, "json").write_text(json.dumps(asdict(result)), encoding="utf-8")
    return result


def keep_unit(task: UnitTask, folder: Path) -> None:
    """Move the files of a unit to the folder of finished units.

    Args:
        task: The unit, in the folder of finished ones.
        folder: The folder that `write_unit` wrote to.
    """
    for kind in (*_ARRAYS, "json"):  # the last one marks the others as complete
        target = _file(task, kind)
        (folder / target.name).replace(target)


def finished_unit(task: UnitTask) -> UnitResult | None:
    """Return the result of a unit if its files are complete, else None."""
    values = find_json(_file(task, "json"), UNIT_SHAPE, file_names=True)
    if values is None or values.keys() != UNIT_SHAPE.keys():
        return None
    digests = {_file(task, kind).name: values[f"{kind}_sha256"] for kind in _ARRAYS}
    if not are_as_digested(task.folder, digests):
        return None
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return UnitResult(**values | lists)


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
        yield TokenBatch(
            tokens[bounds[start] : bounds[end]], bounds[start : end + 1] - bounds[start], 0
        )


def _file(task: UnitTask, kind: str) -> Path:
    return task.folder / f"unit-{task.index:06d}.{kind}"
