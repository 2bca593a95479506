"""Table sizes from a budget: the largest k whose exact total, with real primes, fits.

`k` is the number of table rows per n-gram ORDER as a multiple of the vocabulary; the rows are split
over the order's heads. (The reference demo states rows per HEAD instead.)
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from engram.config.config_rules import MAX_ROW_ID
from engram.config.engram_config import EngramConfig
from engram.errors import DoesNotFitError, InputError
from engram.sizing.counts import MemoryCount, count_params
from engram.sizing.shape import MIN_ROWS_PER_HEAD
from engram.sizing.sized_memory import Sizing
from engram.sizing.weights import config_weights, dtype_bytes
from engram.storage.dtypes import row_bytes
from engram.units import format_bytes

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
            "0.25 gives the memory a third of the model's parameters.",
            share=str(share),
        )
    return int(part / (1 - part) * model_params)


def memory_budget(config: EngramConfig, budget_bytes: int, base_dtype: str | None = None) -> int:
    """Return the parameters of the largest memory that fits a budget in bytes.

    Rows count with their scales in the dtype chosen by `EngramConfig.stored_dtype`, dense parts in
    that of `TableDtype.around`.

    Args:
        config: The memory's shape.
        budget_bytes: Bytes that tables and modules may take together.
        base_dtype: Float dtype of the base, if known.
    """
    dense, dtype = count_params(config).dense_params, config.stored_dtype(base_dtype)
    itemsize = dtype_bytes(dtype.around)
    if dense * itemsize > budget_bytes:
        return budget_bytes // itemsize
    row = row_bytes(config.row_width, dtype.name)
    return dense + (budget_bytes - dense * itemsize) // row * config.row_width


def size_memory(
    config: EngramConfig,
    budget_params: int,
    *,
    fill: str | float | None = None,
    base_dtype: str | None = None,
) -> Sizing:
    """Choose the table size so that the whole memory fits a budget.

    Args:
        config: The memory's shape; its table size is ignored.
        budget_params: Parameters that tables and modules may have together.
        fill: Instead of a whole k, use this fraction (0 to 1) of the rows that fill the budget.
        base_dtype: Float dtype of the base, if known; for bytes in errors.

    Raises:
        DoesNotFitError: No whole k fits (with `fill`: no table at all); the details contain the
            smallest sufficient budget.
        InputError: The budget is negative, or the fraction is not valid.
    """
    if budget_params < 0:
        raise InputError(f"The budget must be >= 0 parameters, got {budget_params}.")
    vocab_size, heads = config.engram_vocab_size, config.n_head_per_ngram
    fill_rows = _filling_rows(config, budget_params)
    k = fill_rows // vocab_size
    part = None if fill is None else _fraction(fill)
    if fill is not None and (part is None or not 0 < part <= 1):
        raise InputError(
            f"fill must be above 0 and at most 1, got {fill}.",
            "1 uses all rows that fill the budget.",
            fill=str(fill),
        )
    smallest = MIN_ROWS_PER_HEAD * heads
    rows = k * vocab_size if part is None else int(part * fill_rows)
    if rows < smallest:
        needed = smallest if part is not None else -(-smallest // vocab_size) * vocab_size
        raise _does_not_fit(config, budget_params, fill_rows, needed, base_dtype)
    counts = _with_rows(config, [rows] * len(config.orders))
    return Sizing(
        config=counts.config,
        counts=counts,
        k=k,
        budget_params=budget_params,
        fill_rows=fill_rows,
        seed_rule_k=seed_rule_k(config, budget_params),
    )


def memory_cost(config: EngramConfig, rows_per_order: int | Sequence[int]) -> Sizing:
    """Count a memory whose table size is given: the inverse of `size_memory`.

    Args:
        config: The memory's shape; its table size is ignored.
        rows_per_order: Rows per n-gram order, summed over its heads: one number, or one each.
    """
    if isinstance(rows_per_order, int):
        rows_per_order = [rows_per_order] * len(config.orders)
    counts = _with_rows(config, rows_per_order)
    k = Fraction(rows_per_order[0], config.engram_vocab_size)
    shown = k.numerator if k.denominator == 1 else float(k)
    is_one = len(set(rows_per_order)) == 1
    return Sizing(config=counts.config, counts=counts, k=shown if is_one else None)


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


def _filling_rows(config: EngramConfig, budget_params: int) -> int:
    """Return the largest rows per order whose exact total fits; 0 if none does.

    Primes never shrink when the nominal size grows, so the total is monotone in the rows per head.
    No head is smaller than its nominal size, so more than the nominal solution never fits.
    """
    heads, orders = config.n_head_per_ngram, len(config.orders)
    params_per_row = len(config.layer_ids) * config.n_columns * config.row_width
    most = (budget_params - count_params(config).dense_params) // params_per_row
    per_head = range(MIN_ROWS_PER_HEAD, most + 1)
    fitting = bisect_right(
        per_head,
        budget_params,
        key=lambda rows: _with_rows(config, [rows * heads] * orders).total_params,
    )
    # The split over heads drops rows per order beyond a multiple of the heads.
    return per_head[fitting - 1] * heads + heads - 1 if fitting else 0


def _with_rows(config: EngramConfig, rows_per_order: Sequence[int]) -> MemoryCount:
    return count_params(replace(config, engram_table_size=list(rows_per_order)))


def _fraction(value: str | float | Fraction) -> Fraction | None:
    text = str(value).strip()
    if _FRACTION.fullmatch(text) is None:
        return None
    try:
        return Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def _does_not_fit(
    config: EngramConfig,
    budget_params: int,
    fill_rows: int,
    needed_rows: int,
    base_dtype: str | None,
) -> DoesNotFitError:
    vocab_size = config.engram_vocab_size
    needed = _with_rows(config, [needed_rows] * len(config.orders))
    parts = config_weights(needed, config.stored_dtype(base_dtype))
    needed_bytes = sum(part.size_bytes for part in parts)
    what = (
        f"k = {needed_rows // vocab_size}"
        if needed_rows % vocab_size == 0
        else f"the smallest table, {needed_rows} rows per order,"
    )
    fraction = f", or take k = {fill_rows / vocab_size:.4g} with --fill 1" if fill_rows else ""
    return DoesNotFitError(
        f"A budget of {budget_params:,} parameters is too small: {what} takes "
        f"{needed.total_params:,} ({format_bytes(needed_bytes)}), {needed.dense_params:,} of them "
        "outside of the tables.",
        f"Raise the budget to {needed.total_params:,}{fraction}. Fewer layers or a smaller width "
        "per order cost less.",
        budget_params=budget_params,
        smallest_budget_params=needed.total_params,
        smallest_budget_bytes=needed_bytes,
        dense_params=needed.dense_params,
        k=0,
        k_fill=fill_rows / vocab_size,
        seed_rule_k=seed_rule_k(config, budget_params),
    )
