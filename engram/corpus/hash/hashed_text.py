"""`HashedText`: the counts and statistics of a text that was hashed, for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from engram.corpus.hash.hash_counts import HashCounts
from engram.corpus.text.sources import passed_over_dict
from engram.storage.dtypes import row_bytes

if TYPE_CHECKING:
    from engram.corpus.hash.hash_plan import HashPlan

SCHEMA = "engram.hash/1"
_CACHE_DTYPES = ("float32", "bfloat16", "fp8", "int8")


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
