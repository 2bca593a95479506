"""Text to tokens to statistics and hash ids: one pass, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import engram
from engram.addressing.addresses import Addresses
from engram.corpus.cache_curve import CacheSample, LayerCache
from engram.corpus.folder import check_folder, new_folder, write_manifest
from engram.corpus.growth import Growth
from engram.corpus.readers import TextReader
from engram.corpus.shards import (
    TOKEN_MAP,
    Format,
    ShardWriter,
    bytes_per_token,
    check_format,
    ids_dtype,
)
from engram.corpus.statistics import LayerStatistics, Statistics
from engram.corpus.stored_tokens import StoredTokens
from engram.corpus.token_shards import SHARD_TOKENS
from engram.corpus.tokenise import TokenBatch, fast_encoder, token_dtype, tokenise
from engram.errors import InputError
from engram.files import Progress

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile

MANIFEST_SCHEMA = "engram.hashes/1"

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """Where and how hash ids are written.

    Attributes:
        folder: The folder to appear.
        format: npy or parquet.
        shard_tokens: Tokens that fill a shard.
        overwrite: Whether a folder of hash ids that is there may be replaced.
    """

    folder: Path
    format: Format = "npy"
    shard_tokens: int = SHARD_TOKENS
    overwrite: bool = False

    def check(self) -> None:
        """Check that the folder may appear and the format can be written.

        Raises:
            InputError: Something is there that is not to be replaced.
            MissingPackageError: parquet needs pyarrow.
        """
        check_format(self.format)
        check_folder(self.folder, MANIFEST_SCHEMA, self.overwrite)


@dataclass(frozen=True)
class HashedText:
    """What came of hashing a text.

    Attributes:
        documents: Its documents.
        tokens: Its tokens.
        ids: Hash ids: tokens x layers x columns.
        seconds: Time from the first byte to the last shard.
        layers: Statistics by layer and head.
        growth: Growth of the distinct n-grams, by order.
        written_bytes: Bytes of the folder that was written; 0 without one.
        cache_tokens: Tokens that the cache curves were measured with; 0 without them.
        caches: Cache curves by layer, when they were asked for.
        engine: What tokenised it, and why, as a sentence; empty for tokens.
        problem: Why the fast engine was given up; empty when it was not.
    """

    documents: int
    tokens: int
    ids: int
    seconds: float
    layers: tuple[LayerStatistics, ...]
    growth: tuple[Growth, ...]
    written_bytes: int
    cache_tokens: int
    caches: tuple[LayerCache, ...]
    engine: str
    problem: str


def hash_text(
    reader: TextReader | StoredTokens,
    tokenizer: TokenizerFile,
    addresses: Addresses,
    *,
    add_eos: bool = False,
    threads: int = 1,
    target: Target | None = None,
    cache_tokens: int | None = None,
    progress: Progress | None = None,
) -> HashedText:
    """Tokenise and hash a text, collect its statistics, and write its ids when asked to.

    While one batch is hashed the next is tokenised. Results depend neither on batches nor threads.

    Args:
        reader: The documents, as text or as tokens. Every one starts with the layout's fill.
        tokenizer: The tokenizer that the addresses were made with.
        addresses: The memory's constants.
        add_eos: Whether every document ends with the end-of-text token; of tokens, whether it does.
        threads: Threads that hash; `tokenizers` takes its own from RAYON_NUM_THREADS.
        target: Where ids are written; None for statistics alone.
        cache_tokens: Tokens, from the first on, to measure cache curves with; None for no curves.
        progress: Called with the bytes read so far and their total.

    Returns:
        Counts and statistics.

    Raises:
        InputError: The text cannot be read or has no tokens, or the folder cannot appear.
    """
    started = time.perf_counter()
    statistics = Statistics(addresses, threads=threads)
    sample = CacheSample(addresses, cache_tokens) if cache_tokens is not None else None
    documents = tokens = written_bytes = 0
    with ExitStack() as stack:
        writer = folder = None
        if target is not None:
            target.check()
            folder = stack.enter_context(
                new_folder(target.folder, MANIFEST_SCHEMA, target.overwrite)
            )
            writer = ShardWriter(
                folder,
                addresses,
                vocab_size=tokenizer.vocab_size,
                format=target.format,
                shard_tokens=target.shard_tokens,
                threads=threads,
            )
        fast, engine = None, ""
        if isinstance(reader, StoredTokens):
            source = reader.batches()
        else:
            fast, engine = fast_encoder(tokenizer, reader.total_bytes)
            source = tokenise(reader, tokenizer, add_eos=add_eos, fast=fast)
        batches = _one_ahead(source)
        for batch in stack.enter_context(closing(batches)):
            statistics.add(batch)
            if sample is not None:
                sample.add(batch)
            if writer is not None:
                writer.add(batch)
            documents += len(batch.boundaries) - 1
            tokens += len(batch.tokens)
            if progress is not None:
                progress(batch.read_bytes, reader.total_bytes)
        if not tokens:
            raise InputError("The text has no tokens.", documents=documents)
        ids = tokens * len(addresses.layers) * addresses.n_columns
        layers = statistics.layers()
        if writer is not None and folder is not None and target is not None:
            writer.close()
            counts = {"documents": documents, "tokens": tokens, "ids": ids}
            values = _manifest(counts, tokenizer, addresses, add_eos, target.format)
            values |= {"statistics": [asdict(layer) for layer in layers], "shards": writer.shards}
            written_bytes = write_manifest(folder, values)
    seconds = time.perf_counter() - started
    return HashedText(
        documents=documents,
        tokens=tokens,
        ids=ids,
        seconds=seconds,
        layers=layers,
        growth=statistics.growth(),
        written_bytes=written_bytes,
        cache_tokens=0 if sample is None else sample.tokens,
        caches=() if sample is None else sample.layers(),
        engine=engine,
        problem="" if fast is None else fast.problem,
    )


def estimate_bytes(
    reader: TextReader | StoredTokens, tokenizer: TokenizerFile, addresses: Addresses
) -> int | None:
    """Estimate what .npy shards of a text take, from its first MiB; None for standard input."""
    if isinstance(reader, StoredTokens):
        return reader.n_tokens * bytes_per_token(addresses, tokenizer.vocab_size)
    if reader.total_bytes is None:
        return None
    with closing(tokenise(reader, tokenizer)) as batches:
        first: TokenBatch = next(batches)
    tokens = len(first.tokens) * reader.total_bytes / max(first.read_bytes, 1)
    return round(tokens * bytes_per_token(addresses, tokenizer.vocab_size))


def _one_ahead(items: Generator[T]) -> Generator[T]:
    """Fetch the next item in a thread while the caller works on this one."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        following: Any = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item


def _manifest(
    counts: dict[str, int],
    tokenizer: TokenizerFile,
    addresses: Addresses,
    add_eos: bool,
    format: Format,
) -> dict[str, Any]:
    return {
        "schema": MANIFEST_SCHEMA,
        "engram_version": engram.__version__,
        "fingerprint": addresses.fingerprint,
        "format": format,
        "counts": counts,
        "tokenizer": {
            "name": tokenizer.name,
            "sha256": tokenizer.digest,
            "vocab_size": tokenizer.vocab_size,
            "eos_id": tokenizer.eos_id if add_eos else None,
        },
        "tokens": {"dtype": token_dtype(tokenizer.vocab_size).name},
        "ids": {
            "dtype": ids_dtype(addresses).name,
            "axes": ["token", "layer", "column"],
            "column": "(order - 2) * heads + head",
            "layer_ids": addresses.layer_ids,
            "has_offsets": False,
            "row_offsets": [list(layer.offsets) for layer in addresses.layers],
        },
        "addresses": addresses.to_dict(),
        "token_map_file": None if addresses.token_map is None else TOKEN_MAP,
    }
