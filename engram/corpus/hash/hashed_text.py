"""Counts a text's tokens, n-grams and rows in bounded memory, for people and programs."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from engram.addressing.addresses import Addresses
from engram.corpus.counts.cache_curve import CacheSample, LayerCache
from engram.corpus.counts.statistics import LayerStatistics, Statistics
from engram.corpus.results.stored_corpus import Notes
from engram.corpus.text.sources import passed_over_dict
from engram.corpus.tokens.token_shards import DocumentShards
from engram.corpus.tokens.tokenise import TokenBatch
from engram.errors import InputError
from engram.growth import Growth
from engram.storage.dtypes import row_bytes
from engram.storage.files import Progress

if TYPE_CHECKING:
    from engram.corpus.hash.hash_plan import HashPlan
    from engram.corpus.ray.ray_engine import RayEngine

T = TypeVar("T")

SCHEMA = "engram.hash/1"
# Counting begins by loading its code, and a batch of one very long document takes a while: so many
# others are ready then.
_AHEAD = 8
_CACHE_DTYPES = ("float32", "bfloat16", "fp8", "int8")


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
    notes: Notes
    written_bytes: int = 0
    resumed_shards: int = 0
    was_finished: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, repr=False)
class HashedText:
    """Result of `hash_text`.

    Attributes:
        plan: The text, the memory and the options.
        counts: Documents, tokens, ids, statistics by layer and head, growth, cache curves.
        engine: Whether this machine did the work, or Ray.
    """

    plan: HashPlan
    counts: HashCounts
    engine: str

    def __repr__(self) -> str:
        return f"<HashedText: {self.counts.tokens:,} tokens, {self.counts.ids:,} ids>"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram hash --json`` prints."""
        plan, counts, addresses = self.plan, self.counts, self.plan.addresses
        return {
            "schema": SCHEMA,
            "documents": counts.documents,
            "skipped": counts.notes.skipped,
            "tokens": counts.tokens,
            "ids": counts.ids,
            "seconds": round(counts.seconds, 3),
            "tokens_per_second": round(counts.tokens / counts.seconds),
            "tokenizer": plan.tokenizer.stated(plan.add_eos),
            "eos_token": plan.tokenizer.eos_token if plan.add_eos else None,
            "compressed_vocab_size": None if addresses.token_map is None else addresses.vocab_size,
            "fingerprint": addresses.fingerprint,
            "layers": [asdict(layer) for layer in counts.layers],
            "growth": self._growth(),
            "cache": self._cache() if counts.caches else None,
            "passed_over": passed_over_dict(plan.passed_over),
            "output": None if plan.output is None else str(plan.output.path),
            "output_bytes": counts.written_bytes,
            "was_finished": counts.was_finished,
            "resumed_shards": counts.resumed_shards,
            "engine": self.engine,
        }

    def _growth(self) -> list[dict[str, Any]]:
        tokens = self.plan.options.predict or 10 * self.counts.tokens
        predictions = [(curve, curve.predict(tokens)) for curve in self.counts.growth]
        return [
            {**curve.to_dict(), "prediction": None if found is None else asdict(found)}
            for curve, found in predictions
        ]

    def _cache(self) -> dict[str, Any]:
        counts, row_width = self.counts, self.plan.config.row_width
        sizes = {dtype: row_bytes(row_width, dtype) for dtype in _CACHE_DTYPES}
        layers = [asdict(layer) for layer in counts.caches]
        for layer in layers:
            for point in layer["points"]:
                point["bytes"] = {dtype: point["rows"] * size for dtype, size in sizes.items()}
        return {
            "tokens": counts.cache_tokens,
            "is_whole_text": counts.cache_tokens == counts.tokens,
            "rows_per_token": self.plan.addresses.n_columns,
            "row_width": row_width,
            "row_bytes": sizes,
            "layers": layers,
        }


def count_tokens(
    batches: Generator[TokenBatch | Notes],
    *,
    addresses: Addresses,
    total_bytes: int | None,
    cache_tokens: int | None,
    workers: int,
    engine: RayEngine | None,
    progress: Progress | None,
    writer: DocumentShards | None = None,
) -> HashCounts:
    """Collect the statistics of a text, and hand its tokens on to a writer.

    Args:
        batches: Its documents, and notes if it was tokenised for this.
        addresses: The memory's constants.
        total_bytes: Size of what is read; None if unknown.
        cache_tokens: Tokens at the start of the text to measure cache curves on; None for no
            curves.
        workers: Threads that count.
        engine: Counts; this machine when None.
        progress: Called with the bytes read so far and their total.
        writer: Takes the documents.

    Raises:
        InputError: The text has no tokens.
    """
    statistics = Statistics(addresses, threads=workers)
    sample = None if cache_tokens is None else CacheSample(addresses, cache_tokens)
    documents = tokens = 0
    notes = Notes()

    def passing() -> Generator[TokenBatch]:
        nonlocal documents, tokens, notes
        with closing(some_ahead(batches)) as ahead:
            for batch in ahead:
                if isinstance(batch, Notes):
                    notes = batch
                    continue
                documents += len(batch.boundaries) - 1
                tokens += len(batch.tokens)
                if sample is not None:
                    sample.add(batch)
                if writer is not None:
                    writer.add(batch)
                yield batch
                if progress is not None:
                    progress(batch.read_bytes, total_bytes)

    with closing(statistics):
        with closing(passing()) as passed:
            if engine is not None:
                engine.count(passed, statistics)
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
            notes=notes,
        )


def some_ahead(items: Iterator[T], most: int = _AHEAD) -> Generator[T]:
    """Fetch the next items in a thread, so many at most, while the caller works on this one."""
    end, pool = object(), ThreadPoolExecutor(1)
    try:
        following = deque(pool.submit(next, items, end) for _ in range(most))
        item: Any
        while (item := following.popleft().result()) is not end:
            following.append(pool.submit(next, items, end))
            yield item
    finally:
        # Waiting for a pipe without a writer would keep an interrupted command from ending.
        pool.shutdown(wait=False, cancel_futures=True)
