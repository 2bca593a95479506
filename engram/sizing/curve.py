"""The curve of `size`: parameters and slack of memories of one shape, by k, counted exactly."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from engram.config.config_rules import MAX_ROW_ID
from engram.sizing.budget import count_rows
from engram.sizing.shape import MIN_ROWS_PER_HEAD
from engram.sizing.sized_memory import Sizing

# Sizes from an eighth of the chosen one to twice it, in eighths.
_PARTS, _MOST = 8, 16


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The memory of one k.

    Attributes:
        k: Rows per n-gram order as a multiple of the vocabulary; where orders differ, their mean.
        table_params: Parameters of its tables.
        total_params: Parameters of the memory.
        slack_params: Parameters of the budget that are left over, negative where it is too small;
            None without a budget.
        is_chosen: Whether it is the memory that `size` found.
    """

    k: float
    table_params: int
    total_params: int
    slack_params: int | None
    is_chosen: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the point for JSON."""
        return asdict(self)


def size_curve(sizing: Sizing) -> tuple[CurvePoint, ...]:
    """Count the memories of the same shape with fewer and more rows than the one that was sized.

    Args:
        sizing: The memory.

    Returns:
        Points of increasing k, with real primes; the chosen memory is one of them.
    """
    return tuple(_points(sizing))


def _points(sizing: Sizing) -> Iterator[CurvePoint]:
    config, budget = sizing.config, sizing.budget_params
    chosen = config.engram_table_size
    least = MIN_ROWS_PER_HEAD * config.n_head_per_ngram
    before: list[int] = []
    for part in range(1, _MOST + 1):
        sizes = [max(least, rows * part // _PARTS) for rows in chosen]
        if part == _PARTS:
            sizes = list(chosen)
        if sizes == before or sum(sizes) >= MAX_ROW_ID:
            continue
        before = sizes
        counts = count_rows(config, sizes)
        yield CurvePoint(
            k=sum(sizes) / len(sizes) / config.engram_vocab_size,
            table_params=counts.table_params,
            total_params=counts.total_params,
            slack_params=None if budget is None else budget - counts.total_params,
            is_chosen=sizes == list(chosen),
        )
