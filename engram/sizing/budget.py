"""Budgets and table sizes: shares of a model, k, and rows.

`k` is the number of table rows per n-gram ORDER as a multiple of the vocabulary; the rows are split
over the order's heads. (The reference demo states rows per HEAD instead.)
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from engram.config.config_rules import MAX_ROW_ID
from engram.config.engram_config import EngramConfig
from engram.errors import InputError
from engram.sizing.counts import MemoryCount, count_params

SEED_SHARE = Fraction(1, 4)
# Limits exponents, which Python would compute at any size.
_FRACTION = re.compile(r"[0-9./_+-]{1,40}(e[+-]?[0-9]{1,2})?%?", re.IGNORECASE)


def share_budget(model_params: int, share: str | float | Fraction = SEED_SHARE) -> int:
    """Return the parameters of a memory that is a share of the whole after attaching.

    Args:
        model_params: Parameters of the base model.
        share: Share s of the whole, between 0 and 1, or as 20%; the default 1/4 is a third of the
            model, the rule of engram_torch_unofficial.

    Returns:
        s / (1 - s) x model_params, rounded down, without floating-point error.

    Raises:
        InputError: The share is not between 0 and 1.
    """
    part = _fraction(share)
    if part is None or not 0 < part < 1:
        raise InputError(
            f"share must be between 0 and 1, the memory's part of the whole, got {share}.",
            f"Did you mean {share}%?"
            if part is not None and 1 < part < 100
            else "0.25 gives the memory a third of the model's parameters.",
            share=str(share),
        )
    return int(part / (1 - part) * model_params)


def count_rows(config: EngramConfig, rows_per_order: int | Sequence[int]) -> MemoryCount:
    """Count a memory whose table size is given.

    Args:
        config: The memory's shape; its table size is ignored.
        rows_per_order: Rows per n-gram order, summed over its heads: one number, or one each.
    """
    if isinstance(rows_per_order, int):
        rows_per_order = [rows_per_order] * len(config.orders)
    return count_params(replace(config, engram_table_size=list(rows_per_order)))


def k_of(config: EngramConfig) -> int | float | None:
    """Return the rows per n-gram order as a multiple of the vocabulary; None if orders differ."""
    sizes = set(config.engram_table_size)
    if len(sizes) > 1:
        return None
    k = Fraction(sizes.pop(), config.engram_vocab_size)
    return k.numerator if k.denominator == 1 else float(k)


def rows_of_k(config: EngramConfig, k: float) -> int:
    """Return the rows per n-gram order for k times the vocabulary.

    Raises:
        InputError: k is not a positive number.
    """
    if not 0 < k < float("inf"):
        raise InputError(f"k = {k} is not a positive number.", "Such as 2, or 40.5.", k=str(k))
    rows = k * config.engram_vocab_size
    if rows >= MAX_ROW_ID:
        raise InputError(
            f"k = {k:g} makes {rows:.3g} rows, too many for 62-bit row ids.",
            "Published memories have k from 40 to 1,000.",
            k=str(k),
        )
    return round(rows)


def seed_rule_k(config: EngramConfig, budget_params: int) -> int:
    """Compute k by the formula of engram_torch_unofficial's README.

    It counts nominal rows, no biases and no norms, and is at least 1, even if that does not fit.

    Args:
        config: The memory's shape.
        budget_params: Parameters of the memory; the README uses a third of the model's.
    """
    hidden, streams, layers = config.hidden_size, config.hc_mult, len(config.layer_ids)
    projections = (1 + streams) * config.memory_width * hidden
    conv = hidden * streams * config.kernel_size
    params_of_k = layers * len(config.orders) * config.engram_vocab_size * config.row_width
    return max(1, (budget_params - layers * (projections + conv)) // params_of_k)


def _fraction(value: str | float | Fraction) -> Fraction | None:
    text = str(value).strip()
    if _FRACTION.fullmatch(text) is None:
        return None
    try:
        return Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None
