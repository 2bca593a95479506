"""Turns text into tokens, statistics and hash ids, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from engram.addressing.addresses import Addresses
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.building.build_job import text_job
from engram.corpus.building.unit_work import Notes
from engram.corpus.building.units import UNIT_BYTES
from engram.corpus.counts.cache_curve import CacheSample, LayerCache
from engram.corpus.counts.statistics import LayerStatistics, Statistics
from engram.corpus.hash.hash_folder import HashWriter, Target, describe, is_described
from engram.corpus.hash.hash_shards import bytes_per_token
from engram.corpus.hash.token_stream import TokenStream, text_rules
from engram.corpus.results.result_folder import MANIFEST
from engram.corpus.results.work_folder import check_work, discard, working
from engram.corpus.text.readers import TextReader
from engram.corpus.tokens.stored_tokens import StoredTokens
from engram.corpus.tokens.tokenise import TokenBatch, tokenise
from engram.errors import InputError
from engram.growth import Growth
from engram.storage.files import Progress, sha256_of
from engram.storage.folders import remove_torn
from engram.version import __version__

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile
    from engram.corpus.ray.ray_engine import RayEngine

T = TypeVar("T")


@dataclass(frozen=True)
class HashCounts:
    """Counts and statistics of a text that was hashed.

    Attributes:
        documents: Its documents.
        tokens: Its tokens.
        ids: Hash ids: tokens x layers x columns.
        layers: Statistics by layer and head.
        growth: Growth of the distinct n-grams, by order.
        cache_tokens: Tokens that the cache curves were measured on; 0 without them.
        caches: Cache curves by layer, if requested.
        notes: Notes from tokenising; empty for stored tokens.
        written_bytes: Bytes of the folder of hash ids; 0 without one.
        resumed_shards: Shards of it that an earlier run had finished.
        was_finished: Whether the whole folder existed already.
        seconds: Time from the first byte to the last shard.
    """

    documents: int
    tokens: int
    ids: int
    layers: tuple[LayerStatistics, ...]
    growth: tuple[Growth, ...]
    cache_tokens: int
    caches: tuple[LayerCache, ...]
    notes: Notes = Notes()
    written_bytes: int = 0
    resumed_shards: int = 0
    was_finished: bool = False
    seconds: float = 0.0


def hash_documents(
    reader: TextReader | StoredTokens,
    tokenizer: TokenizerFile,
    addresses: Addresses,
    *,
    add_eos: bool = True,
    threads: int = 1,
    engine: RayEngine | None = None,
    target: Target | None = None,
    cache_tokens: int | None = None,
    progress: Progress | None = None,
    unit_bytes: int = UNIT_BYTES,
) -> HashCounts:
    """Tokenise and hash a text, collect its statistics, and write its ids when asked to.

    Results do not depend on batches, threads or the engine. Statistics alone take one pass over the
    text. To write ids, the text is first tokenised into a hidden folder beside the target, where
    tokens and finished shards stay if the work is interrupted. Ids are always hashed in this
    process, since hashing them is faster than sending them.

    Args:
        reader: The documents, as text or as tokens. Each one starts with the layout's fill.
        tokenizer: The tokenizer that the addresses were made with.
        addresses: The memory's constants.
        add_eos: Whether every document ends with the end-of-text token; for stored tokens, whether
            it does already.
        threads: Threads that hash, and processes that tokenise for ids; in one pass,
            `tokenizers`
            takes its number of threads from RAYON_NUM_THREADS.
        engine: Tokenises and counts; this machine when None.
        target: Output for ids; None for statistics alone.
        cache_tokens: Tokens at the start of the text to measure cache curves on; None for no
            curves.
        progress: Called with the bytes read so far and their total; when ids are written, first
            for the text, then for its tokens.
        unit_bytes: Approximate bytes of text that one worker tokenises at a time.

    Returns:
        Counts and statistics.

    Raises:
        InputError: The text cannot be read or has no tokens, or the folder cannot be created.
        WorkerLostError: A worker process was killed.
    """
    started = time.perf_counter()
    work = _Work(tokenizer, addresses, add_eos, threads, engine, cache_tokens, unit_bytes)
    if target is not None:
        remove_torn(target.folder)
    there = target.manifest() if target is not None and target.resume else None
    if target is None or there is not None:
        hashed = work.count(reader, progress)
        if (
            target is not None
            and there is not None
            and is_described(there, work.describe(target, hashed))
            and target.is_whole(there)
        ):
            discard(target.folder)
            hashed = replace(hashed, written_bytes=target.size_bytes(), was_finished=True)
    if target is not None and (there is None or not hashed.was_finished):
        target.check()
        hashed = work.write(reader, target, progress)
    return replace(hashed, seconds=time.perf_counter() - started)


def check_target(
    reader: TextReader | StoredTokens,
    tokenizer: TokenizerFile,
    addresses: Addresses,
    add_eos: bool,
    target: Target,
) -> None:
    """Check that `hash_documents` may write to a target; nothing is written.

    Whether a folder that is there is the one asked for, only `hash_documents` can tell.

    Raises:
        InputError: The path exists and may not be replaced, or a build to resume started with other
            inputs.
        MissingPackageError: parquet needs pyarrow.
    """
    if not target.resume or target.manifest() is None:
        target.check()
        job = _job(reader, tokenizer, addresses, add_eos, target, UNIT_BYTES)
        check_work(target.folder, job, target.resume, target.overwrite)


def estimate_bytes(
    reader: TextReader | StoredTokens,
    tokenizer: TokenizerFile,
    addresses: Addresses,
    add_eos: bool = True,
) -> int | None:
    """Estimate the bytes of .npy shards of a text from its first MiB; None for standard input."""
    if isinstance(reader, StoredTokens):
        return reader.n_tokens * bytes_per_token(addresses, tokenizer.vocab_size)
    if reader.total_bytes is None:
        return None
    batches = tokenise(reader, tokenizer, add_eos=add_eos, wrong=reader.wrong)
    with closing(batches):
        first: TokenBatch | None = next(batches, None)
    if first is None:
        return None
    tokens = len(first.tokens) * reader.total_bytes / max(first.read_bytes, 1)
    return round(tokens * bytes_per_token(addresses, tokenizer.vocab_size))


@dataclass(frozen=True)
class _Work:
    """Everything that the work on a text needs; see `hash_documents`."""

    tokenizer: TokenizerFile
    addresses: Addresses
    add_eos: bool
    threads: int
    engine: RayEngine | None
    cache_tokens: int | None
    unit_bytes: int

    def count(self, reader: TextReader | StoredTokens, progress: Progress | None) -> HashCounts:
        """Collect statistics in one pass."""
        stream = TokenStream(reader, self.tokenizer, self.add_eos, self.engine, self.unit_bytes)
        hashed = self._take(stream.batches(), reader.total_bytes, progress)
        return replace(hashed, notes=stream.notes)

    def write(
        self, reader: TextReader | StoredTokens, target: Target, progress: Progress | None
    ) -> HashCounts:
        """Write hash ids; statistics are collected on the way."""
        job = _job(reader, self.tokenizer, self.addresses, self.add_eos, target, self.unit_bytes)
        with ExitStack() as stack:
            work = stack.enter_context(working(target.folder, job, target.resume, target.overwrite))
            notes = Notes()
            if isinstance(reader, TextReader):
                built = build_corpus(
                    reader.sources,
                    self.tokenizer,
                    work / "tokens",
                    text_rules(reader, self.add_eos, target.shard_tokens),
                    workers=self.threads,
                    engine=None if self.engine is None else self.engine.run_units,
                    # Existing files belong to this job.
                    resume=True,
                    overwrite=True,
                    unit_bytes=self.unit_bytes,
                    progress=progress,
                )
                notes, reader = built.notes, StoredTokens(work / "tokens")
            vocab_size = self.tokenizer.vocab_size
            writer = HashWriter(
                work, target, self.addresses, vocab_size=vocab_size, threads=self.threads
            )
            stack.callback(writer.stop)
            hashed = self._take(reader.batches(), reader.total_bytes, progress, writer)
            writer.close()
            written_bytes = writer.assemble(self.describe(target, hashed))
        return replace(
            hashed, notes=notes, written_bytes=written_bytes, resumed_shards=writer.resumed
        )

    def describe(self, target: Target, hashed: HashCounts) -> dict[str, Any]:
        """Return what the manifest says, but for the files."""
        counts = {key: getattr(hashed, key) for key in ("documents", "tokens", "ids")}
        return describe(target, self.tokenizer, self.addresses, self.add_eos, counts, hashed.layers)

    def _take(
        self,
        batches: Generator[TokenBatch],
        total_bytes: int | None,
        progress: Progress | None,
        writer: HashWriter | None = None,
    ) -> HashCounts:
        """Take in the tokens of a text, and hand them on to a writer."""
        addresses = self.addresses
        statistics = Statistics(addresses, threads=self.threads)
        sample = None
        if self.cache_tokens is not None:
            sample = CacheSample(addresses, self.cache_tokens)
        documents = tokens = 0

        def passing() -> Generator[TokenBatch]:
            nonlocal documents, tokens
            with closing(_one_ahead(batches)) as ahead:
                for batch in ahead:
                    documents += len(batch.boundaries) - 1
                    tokens += len(batch.tokens)
                    if sample is not None:
                        sample.add(batch)
                    if writer is not None:
                        writer.add(batch)
                    yield batch
                    if progress is not None:
                        progress(batch.read_bytes, total_bytes)

        with closing(passing()) as passed:
            if self.engine is not None:
                self.engine.count(passed, statistics)
            else:
                for batch in passed:
                    statistics.add(batch)
        if not tokens:
            raise InputError("The text has no tokens.", documents=documents)
        return HashCounts(
            documents=documents,
            tokens=tokens,
            ids=tokens * len(addresses.layers) * addresses.n_columns,
            layers=statistics.layers(),
            growth=statistics.growth(),
            cache_tokens=0 if sample is None else sample.tokens,
            caches=() if sample is None else sample.layers(),
        )


def _job(
    reader: TextReader | StoredTokens,
    tokenizer: TokenizerFile,
    addresses: Addresses,
    add_eos: bool,
    target: Target,
    unit_bytes: int,
) -> dict[str, Any]:
    """Return everything that determines the bytes of a target."""
    if isinstance(reader, StoredTokens):
        text = {
            "engram_version": __version__,
            "tokens_sha256": sha256_of(reader.folder / MANIFEST),
            "shard_tokens": target.shard_tokens,
        }
    else:
        rules = text_rules(reader, add_eos, target.shard_tokens)
        text = text_job(reader.sources, tokenizer, rules, unit_bytes)
    return {**text, "fingerprint": addresses.fingerprint, "format": target.format}


def _one_ahead(items: Generator[T]) -> Generator[T]:
    """Fetch the next item in a thread while the caller works on this one."""
    end, pool = object(), ThreadPoolExecutor(1)
    try:
        following: Any = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item
    finally:
        # Waiting for a pipe without a writer would keep an interrupted command from ending.
        pool.shutdown(wait=False, cancel_futures=True)
