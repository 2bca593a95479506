"""Table sizes from a corpus: the rows that its n-grams fill, and the rows for a table load.

n distinct n-grams hashed evenly to p rows hit p (1 - (1 - 1/p)^n) of them on average. Every head of
an order reads all n-grams of the order.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engram.config.engram_config import EngramConfig
from engram.errors import CorruptFileError, InputError, MismatchError, MissingFileError
from engram.sizing.counts import MemoryCount
from engram.sizing.shape import MIN_ROWS_PER_HEAD
from engram.storage.json_files import COUNT, NUMBER, Kind, OrNull, one_of, read_json

if TYPE_CHECKING:
    from engram.growth import Growth

SCHEMA = "engram.hash/1"
_ORDER = Kind("an n-gram order from 2 to 16", lambda value: type(value) is int and 2 <= value <= 16)
_COUNTED = {
    "distinct_ngrams": COUNT,
    "kind": one_of("exact", "estimated"),
}
_LENGTH = Kind("a length below 2^50", lambda value: type(value) is int and 0 < value < 2**50)
_CURVE = Kind(
    "points whose tokens rise",
    lambda points: (
        0 < len(points) == len({point["tokens"] for point in points})
        and points == sorted(points, key=itemgetter("tokens"))
    ),
    [{"tokens": _LENGTH, **_COUNTED}],
)
_SHAPE = {
    "schema": one_of(SCHEMA),
    "tokens": COUNT,
    "tokenizer": {"vocab_size": COUNT},
    "compressed_vocab_size": OrNull(COUNT),
    "layers": Kind(
        "a list with something in it",
        bool,
        [{"heads": [{"order": _ORDER, **_COUNTED, "relative_error": OrNull(NUMBER)}]}],
    ),
    "growth": [{"order": _ORDER, "points": _CURVE}],
}


@dataclass(frozen=True)
class NgramCount:
    """The number of distinct n-grams of one order.

    Attributes:
        order: n of the n-grams.
        distinct_ngrams: Their number.
        kind: Exact; or estimated: from a sample, or predicted for another length of the text.
        relative_error: Relative error of an estimate, as a fraction; None if unknown.
    """

    order: int
    distinct_ngrams: int
    kind: Literal["exact", "estimated"]
    relative_error: float | None


_NGRAM_COUNT = [field.name for field in fields(NgramCount)]


@dataclass(frozen=True)
class CorpusStatistics:
    """The statistics of a text from `engram hash --json`.

    Attributes:
        file: The file with them.
        tokens: Tokens of the text.
        vocab_size: Length of its tokenizer.
        is_compressed: Whether n-grams of compressed ids were counted.
        counts: Distinct n-grams by order.
        growth: Their growth by order.
    """

    file: Path
    tokens: int
    vocab_size: int
    is_compressed: bool
    counts: dict[int, NgramCount]
    growth: dict[int, Growth]

    def check(self, config: EngramConfig) -> None:
        """Check that the statistics are for the n-grams that a memory reads.

        Raises:
            MismatchError: They are for another vocabulary, or for other orders.
        """
        compresses = config.rules.hashes == "compressed"
        if compresses != self.is_compressed:
            ours, theirs = ("compressed", "raw") if compresses else ("raw", "compressed")
            raise MismatchError(
                f"{self.file} counts n-grams of {theirs} ids; layout {config.layout} hashes {ours} "
                "ones.",
                "Hash the text with -c of a config with that layout.",
                layout=config.layout,
            )
        if compresses and config.engram_vocab_size != self.vocab_size:
            raise MismatchError(
                f"{self.file} is for a tokenizer of {self.vocab_size:,} ids; the memory "
                f"has {config.engram_vocab_size:,}.",
                "Hash the text with -t of the model's tokenizer.",
                vocab_size=self.vocab_size,
                expected=config.engram_vocab_size,
            )
        if missing := [order for order in config.orders if order not in self.counts]:
            raise MismatchError(
                f"{self.file} counts n-grams of the orders {sorted(self.counts)}; the memory also "
                f"reads {missing}.",
                f"Hash the text with -c of a config with max_ngram_size {config.orders[-1]}.",
                missing=missing,
            )

    def ngrams(self, order: int, tokens: int) -> NgramCount:
        """Return the number of distinct n-grams of one order.

        Args:
            order: n of the n-grams.
            tokens: Length of a text of this kind.

        Raises:
            InputError: The text is too short to predict from.
        """
        if tokens == self.tokens:
            return self.counts[order]
        prediction = self.growth[order].predict(tokens)
        if prediction is None:
            raise InputError(
                f"{self.file} has too few tokens, {self.tokens:,}, to predict those of {tokens:,}.",
                "Hash a longer text.",
                tokens=self.tokens,
            )
        return NgramCount(order, prediction.distinct_ngrams, "estimated", prediction.relative_error)


def read_statistics(file: Path) -> CorpusStatistics:
    """Read the output of ``engram hash --json``.

    Raises:
        MissingFileError: There is no such file.
        InputError: It holds something else.
    """
    from engram.growth import Growth

    try:
        values = read_json(file, _SHAPE)
    except MissingFileError:
        hint = f"engram hash TEXT --json > {file.name} writes it."
        raise MissingFileError.at(file, hint, file=str(file)) from None
    except CorruptFileError as error:
        # Any other file is probably the text itself, which the hint must not overwrite.
        text = "TEXT" if file.suffix == ".json" else shlex.quote(str(file))
        other = "hash.json" if file.name == "stats.json" else "stats.json"
        raise InputError(
            f"{file} is not a result of engram hash --json: {error.message}",
            f"engram hash {text} --json > {other} writes one.",
            file=str(file),
        ) from None
    return CorpusStatistics(
        file=file,
        tokens=values["tokens"],
        vocab_size=values["tokenizer"]["vocab_size"],
        is_compressed=values["compressed_vocab_size"] is not None,
        counts={
            head["order"]: NgramCount(*map(head.get, _NGRAM_COUNT))
            for head in values["layers"][0]["heads"]
        },
        growth={curve["order"]: Growth.from_dict(curve) for curve in values["growth"]},
    )


def expected_rows_hit(distinct_ngrams: int, rows: int) -> float:
    """Return the average number of rows that n-grams hit when hashed evenly.

    Args:
        distinct_ngrams: Number of distinct n-grams.
        rows: Rows of one head, more than 1.
    """
    return -rows * math.expm1(distinct_ngrams * math.log1p(-1 / rows))


def rows_for_load(distinct_ngrams: int, load: float) -> int:
    """Return the rows of one head that n-grams fill to a load: the inverse of the above.

    Args:
        distinct_ngrams: Number of distinct n-grams.
        load: Wanted rows hit / rows, above 0 and below 1.

    Returns:
        The fewest rows whose expected load is not higher, within floating-point precision.

    Raises:
        InputError: The load is not between 0 and 1.
    """
    if not 0 < load < 1:
        raise InputError(
            f"The load must be between 0 and 1, the share of rows that are hit, got {load}.",
            "0.7 is a table with 3 of 10 rows free.",
            load=str(load),
        )
    if not distinct_ngrams:
        return MIN_ROWS_PER_HEAD
    return max(MIN_ROWS_PER_HEAD, math.ceil(-1 / math.expm1(math.log1p(-load) / distinct_ngrams)))


@dataclass(frozen=True)
class OrderLoad(NgramCount):
    """The table load of one order for a corpus, and the n-grams that make it.

    Attributes:
        rows_needed_per_head: Rows of one head that they fill to the wanted load.
        rows: Rows of all heads of the order in the first layer: a sum of primes.
        expected_rows_hit: Average number of these rows that the n-grams hit.
        expected_load: expected_rows_hit / rows.
    """

    rows_needed_per_head: int
    rows: int
    expected_rows_hit: float
    expected_load: float


def order_loads(
    counts: Sequence[NgramCount], memory: MemoryCount, load: float
) -> tuple[OrderLoad, ...]:
    """Compute the table loads of a memory for a corpus.

    Args:
        counts: Distinct n-grams of each of its orders.
        memory: The memory's parameter counts.
        load: Wanted load.
    """
    loads = []
    for count, primes in zip(counts, memory.layers[0].primes, strict=True):
        hit = sum(expected_rows_hit(count.distinct_ngrams, prime) for prime in primes)
        loads.append(
            OrderLoad(
                **vars(count),
                rows_needed_per_head=rows_for_load(count.distinct_ngrams, load),
                rows=sum(primes),
                expected_rows_hit=hit,
                expected_load=hit / sum(primes),
            )
        )
    return tuple(loads)


def rows_per_order(config: EngramConfig, counts: Sequence[NgramCount], load: float) -> list[int]:
    """Return the rows per order, summed over its heads, for a wanted load of every head.

    In layouts with one size for all orders, it is that of the order with the most n-grams.

    Args:
        config: The memory's shape.
        counts: Distinct n-grams of each of its orders.
        load: Wanted load.
    """
    rows = [rows_for_load(count.distinct_ngrams, load) for count in counts]
    are_equal = config.rules.equal_tables
    return [(max(rows) if are_equal else size) * config.n_head_per_ngram for size in rows]
