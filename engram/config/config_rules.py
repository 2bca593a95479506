"""Fills in a config: the defaults of its layout, and every check of every key."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from engram.errors import InputError, Problem
from engram.layouts import DEMO, LAYOUTS, Layout
from engram.storage.dtypes import TABLE_DTYPES, dtype_name
from engram.units import plural

if TYPE_CHECKING:
    from engram.config.engram_config import EngramConfig

# A key, and what is wrong with it.
Found = tuple[str, str]

MAX_ROW_ID = 2**62
# Each head of each layer needs its own prime, and finding one takes a tenth of a millisecond.
MAX_LAYERS = 1024
MAX_HEADS = 2**16


def too_many_heads(n_layers: int, n_columns: int) -> str:
    """Return the problem of a memory with too many layers or heads in all; else ""."""
    if n_layers > MAX_LAYERS:
        return f"{n_layers:,} layers; at most {MAX_LAYERS:,} can have a memory"
    if n_layers * n_columns > MAX_HEADS:
        heads = n_layers * n_columns
        return f"{n_layers:,} layers of {n_columns:,} heads are {heads:,}; at most {MAX_HEADS:,}"
    return ""


# Keys that a layout has a default for.
_DEFAULTS = ("seed", "row_multiple", "kernel_size", "max_ngram_size", "eps", "ends_after_eos")
# Least and largest value of keys that are whole numbers.
_BOUNDS = {
    "engram_vocab_size": (2, 2**31 - 1),
    "hidden_size": (1, 2**24),
    "max_ngram_size": (2, 16),
    "n_head_per_ngram": (1, 256),
    "n_embed_per_ngram": (1, 2**20),
    "hc_mult": (1, 64),
    "row_multiple": (1, 2**20),
    "offload_cache_lines": (0, 2**31),
    "seed": (0, 2**62),
    "kernel_size": (0, 64),
}


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def resolve(config: EngramConfig, k: float | None) -> list[Problem]:
    """Fill in the layout's defaults and return everything that is wrong."""
    known = LAYOUTS.get(config.layout) if isinstance(config.layout, str) else None
    layout = known or DEMO
    for key in _DEFAULTS:
        if getattr(config, key) is None:
            _put(config, key, getattr(layout, key))
    right: set[str] = set()
    found: list[Found] = []
    if known is None:
        found.append(
            ("layout", f"unknown layout {config.layout!r}; use one of {', '.join(LAYOUTS)}")
        )
    found += _check_bounds(config, right)
    found += _check_layout(config, layout, right)
    found += _check_others(config)
    found += _check_tokens(config, layout, right)
    found += _check_layer_ids(config, right)
    found += _check_table_size(config, layout, right, k)
    return [Problem(key, message) for key, message in found]


def _put(config: EngramConfig, key: str, value: Any) -> None:
    object.__setattr__(config, key, value)


def _check_bounds(config: EngramConfig, right: set[str]) -> Iterator[Found]:
    """Check whole numbers, and collect the keys of those that are right."""
    for key, (low, high) in _BOUNDS.items():
        value = getattr(config, key)
        if key == "engram_vocab_size" and _is_list(value):
            yield (
                key,
                f"a list {list(value)!r}: here this is the tokenizer's length, one number. "
                "DeepSeek's configs use the name for rows per HEAD; write engram_table_size = "
                "those x n_head_per_ngram instead",
            )
        elif value is None:
            yield key, "missing; it must be a whole number"
        elif not _is_int(value):
            yield key, f"{value!r} is not a whole number"
        elif not low <= value <= high:
            yield key, f"must be in {low}..{high}, got {value}"
        else:
            right.add(key)


def _check_layout(config: EngramConfig, layout: Layout, right: set[str]) -> Iterator[Found]:
    """Check numbers against each other and the layout."""
    width, heads = config.n_embed_per_ngram, config.n_head_per_ngram
    if {"n_head_per_ngram", "n_embed_per_ngram"} <= right and width % heads:
        below = width // heads * heads
        near = f"{below} and {below + heads} are" if below else f"{heads} is"
        yield (
            "n_embed_per_ngram",
            f"{width} is not a multiple of n_head_per_ngram {heads}; {near}",
        )
    if "seed" in right and layout.seed_is_fixed and config.seed != layout.seed:
        yield (
            "seed",
            f"{config.seed}: layout {config.layout} has no seed of its own, only {layout.seed} is "
            "right",
        )
    has_none = layout.kernel_size == 0
    if "kernel_size" in right and (config.kernel_size == 0) != has_none:
        has = "no convolution: kernel_size must be 0" if has_none else "a convolution: at least 1"
        yield "kernel_size", f"{config.kernel_size}: layout {config.layout} has {has}"


def _check_others(config: EngramConfig) -> Iterator[Found]:
    """Check keys that are not whole numbers."""
    if config.eps is not None and not (_is_number(config.eps) and config.eps > 0):
        yield "eps", f"{config.eps!r} is not a positive number"
    for key in ("use_offload", "ends_after_eos"):
        if not isinstance(getattr(config, key), bool):
            yield key, f"{getattr(config, key)!r} is not true or false"
    if config.tokenizer is not None and not isinstance(config.tokenizer, str):
        yield "tokenizer", f"{config.tokenizer!r} is not a text"
    try:
        if config.table_dtype is not None:
            _put(config, "table_dtype", dtype_name(config.table_dtype))
    except (InputError, AttributeError):
        known = ", ".join(TABLE_DTYPES)
        yield "table_dtype", f"{config.table_dtype!r} is not a table dtype; one of {known}"


def _check_tokens(config: EngramConfig, layout: Layout, right: set[str]) -> Iterator[Found]:
    for key in ("pad_id", "eos_id"):
        value = getattr(config, key)
        if value is None or (key == "pad_id" and isinstance(value, str)):
            continue
        if not _is_int(value) or value < 0:
            yield key, f"{value!r} is not a token id"
        elif "engram_vocab_size" in right and value >= config.engram_vocab_size:
            yield key, f"{value} is not below engram_vocab_size {config.engram_vocab_size}"
    if layout.ends_after_eos and config.eos_id is None:
        name = f"layout {config.layout}"
        yield "eos_id", f"missing: {name} stops its look-back at the end-of-text token"
    elif config.ends_after_eos and config.eos_id is None:
        yield "ends_after_eos", "true without eos_id: give the token that documents end with"
    if layout.ends_after_eos and not config.ends_after_eos:
        yield (
            "ends_after_eos",
            f"false: layout {config.layout} always ends documents with eos_id",
        )


def _check_layer_ids(config: EngramConfig, right: set[str]) -> Iterator[Found]:
    ids = config.layer_ids
    columns_ok = {"max_ngram_size", "n_head_per_ngram"} <= right
    if not _is_list(ids) or not all(map(_is_int, ids)):
        yield "layer_ids", f"{ids!r} is not a list of whole numbers"
    elif too_many := too_many_heads(len(ids), config.n_columns if columns_ok else 1):
        yield "layer_ids", too_many
    elif any(item < 0 for item in ids):
        yield "layer_ids", f"{list(ids)} has negative layers; they are counted from 0"
    elif len(set(ids)) != len(ids):
        yield "layer_ids", f"{list(ids)} names a layer twice"
    else:
        _put(config, "layer_ids", list(ids))


def _check_table_size(
    config: EngramConfig, layout: Layout, right: set[str], k: float | None
) -> Iterator[Found]:
    """Check the sizes of tables, after making them of `k` where it is given."""
    if k is not None:
        yield from _scale(config, right, k)
    key, sizes = "engram_table_size", config.engram_table_size
    if sizes is None:
        if k is None:
            yield key, "missing; give it, or k as a multiple of engram_vocab_size"
        return
    if not _is_list(sizes) or not all(map(_is_int, sizes)):
        yield key, f"{sizes!r} is not a list of whole numbers, one per n-gram order"
        return
    _put(config, key, list(sizes))
    if not {"max_ngram_size", "n_head_per_ngram"} <= right:
        return
    orders, heads = config.max_ngram_size - 1, config.n_head_per_ngram
    if len(sizes) != orders:
        yield (
            key,
            f"{plural(len(sizes), 'size')} for {plural(orders, 'order')} "
            f"(2..{config.max_ngram_size}); give one per order",
        )
    elif any(size < 2 * heads for size in sizes):
        least = f"each order needs at least 2 rows for each of its {plural(heads, 'head')}"
        yield key, f"{_brief(sizes)}: {least}"
    elif sum(sizes) >= MAX_ROW_ID:
        yield key, f"{_brief(sizes)} rows do not fit 62-bit row ids"
    elif layout.equal_tables and len(set(sizes)) > 1:
        yield key, f"{list(sizes)}: layout {config.layout} has one size for every order"


def _scale(config: EngramConfig, right: set[str], k: float) -> Iterator[Found]:
    """Make the sizes of tables of `k`."""
    if config.engram_table_size is not None:
        yield "k", "given together with engram_table_size; keep one of the two"
    elif not _is_number(k) or k <= 0:
        yield "k", f"{k!r} is not a positive number"
    elif {"engram_vocab_size", "max_ngram_size"} <= right:
        if k * config.engram_vocab_size >= MAX_ROW_ID:
            yield (
                "k",
                "that many times the vocabulary is too many rows for 62-bit row ids",
            )
        else:
            rows = round(k * config.engram_vocab_size)
            _put(config, "engram_table_size", [rows] * (config.max_ngram_size - 1))


def _brief(sizes: Sequence[int]) -> str:
    """Format sizes for a message; absurdly large ones as a power of two."""
    words = (str(size) if size < 10**30 else f"2^{size.bit_length() - 1}.." for size in sizes)
    return f"[{', '.join(words)}]"
