"""Fills in a config: the defaults of its layout, and every check of every key."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeGuard

from engram.errors import InputError, Problem
from engram.layouts import DEMO, LAYOUTS, Layout
from engram.storage.dtypes import TABLE_DTYPES, dtype_name
from engram.units import plural

# The values of a config by key, of any type before they are checked.
Values = dict[str, Any]

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


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def resolve(values: Values, k: float | None) -> list[Problem]:
    """Fill in the layout's defaults and return everything that is wrong.

    Args:
        values: The config's values by key; what is filled in is put into them.
        k: Rows per order as a multiple of the vocabulary, instead of engram_table_size.
    """
    name = values["layout"]
    known = LAYOUTS.get(name) if isinstance(name, str) else None
    layout = known or DEMO
    values |= {key: getattr(layout, key) for key in _DEFAULTS if values[key] is None}
    wrong = {key: _wrong_number(key, values[key]) for key in _BOUNDS}
    right = {key for key, message in wrong.items() if not message}
    unknown = f"unknown layout {name!r}; use one of {', '.join(LAYOUTS)}"
    return [
        *([] if known else [Problem("layout", unknown)]),
        *(Problem(key, message) for key, message in wrong.items() if message),
        *_check_layout(values, layout, right),
        *_check_others(values),
        *_check_tokens(values, layout, right),
        *_check_layer_ids(values, right),
        *_check_table_size(values, layout, right, k),
    ]


def _wrong_number(key: str, value: object) -> str:
    """Return the problem of a value that has to be a whole number; else ""."""
    low, high = _BOUNDS[key]
    if key == "engram_vocab_size" and _is_list(value):
        return (
            f"a list {list(value)!r}: here this is the tokenizer's length, one number. "
            "DeepSeek's configs use the name for rows per HEAD; write engram_table_size = "
            "those x n_head_per_ngram instead"
        )
    if value is None:
        return "missing; it must be a whole number"
    if not _is_int(value):
        return f"{value!r} is not a whole number"
    return "" if low <= value <= high else f"must be in {low}..{high}, got {value}"


def _check_layout(values: Values, layout: Layout, right: set[str]) -> Iterator[Problem]:
    """Check numbers against each other and the layout."""
    width, heads = values["n_embed_per_ngram"], values["n_head_per_ngram"]
    if {"n_head_per_ngram", "n_embed_per_ngram"} <= right and width % heads:
        below = width // heads * heads
        near = f"{below} and {below + heads} are" if below else f"{heads} is"
        message = f"{width} is not a multiple of n_head_per_ngram {heads}; {near}"
        yield Problem("n_embed_per_ngram", message)
    seed, kernel_size, name = values["seed"], values["kernel_size"], f"layout {values['layout']}"
    has_none = layout.kernel_size == 0
    has = "no convolution: kernel_size must be 0" if has_none else "a convolution: at least 1"
    yield from _broken(
        (
            "seed",
            "seed" in right and layout.seed_is_fixed and seed != layout.seed,
            f"{seed}: {name} has no seed of its own, only {layout.seed} is right",
        ),
        (
            "kernel_size",
            "kernel_size" in right and (kernel_size == 0) != has_none,
            f"{kernel_size}: {name} has {has}",
        ),
    )


def _broken(*rules: tuple[str, bool, str]) -> Iterator[Problem]:
    """Yield the problems of rules: a key, whether its value is wrong, and what is wrong with it."""
    return (Problem(key, message) for key, is_wrong, message in rules if is_wrong)


def _first_broken(*rules: tuple[str, bool, str]) -> Iterator[Problem]:
    return islice(_broken(*rules), 1)


def _check_others(values: Values) -> Iterator[Problem]:
    """Check keys that are not whole numbers."""
    eps, offload, ends = values["eps"], values["use_offload"], values["ends_after_eos"]
    tokenizer, dtype = values["tokenizer"], values["table_dtype"]
    yield from _broken(
        (
            "eps",
            eps is not None and not (_is_number(eps) and eps > 0),
            f"{eps!r} is not a positive number",
        ),
        ("use_offload", not isinstance(offload, bool), f"{offload!r} is not true or false"),
        ("ends_after_eos", not isinstance(ends, bool), f"{ends!r} is not true or false"),
        ("tokenizer", not isinstance(tokenizer, str | None), f"{tokenizer!r} is not a text"),
    )
    try:
        values["table_dtype"] = None if dtype is None else dtype_name(dtype)
    except (InputError, AttributeError):
        known = ", ".join(TABLE_DTYPES)
        yield Problem("table_dtype", f"{dtype!r} is not a table dtype; one of {known}")


def _check_tokens(values: Values, layout: Layout, right: set[str]) -> Iterator[Problem]:
    for key in ("pad_id", "eos_id"):
        value = values[key]
        if value is None or (key == "pad_id" and isinstance(value, str)):
            continue
        if not _is_int(value) or value < 0:
            yield Problem(key, f"{value!r} is not a token id")
        elif "engram_vocab_size" in right and value >= values["engram_vocab_size"]:
            size = values["engram_vocab_size"]
            yield Problem(key, f"{value} is not below engram_vocab_size {size}")
    name, always, ends = (
        f"layout {values['layout']}",
        layout.ends_after_eos,
        values["ends_after_eos"],
    )
    has_none = values["eos_id"] is None
    yield from _broken(
        (
            "eos_id",
            has_none and always,
            f"missing: {name} stops its look-back at the end-of-text token",
        ),
        (
            "ends_after_eos",
            has_none and not always and bool(ends),
            "true without eos_id: give the token that documents end with",
        ),
        (
            "ends_after_eos",
            always and not ends,
            f"false: {name} always ends documents with eos_id",
        ),
    )


def _check_layer_ids(values: Values, right: set[str]) -> Iterator[Problem]:
    key, ids, columns = "layer_ids", values["layer_ids"], 1
    if not _is_list(ids) or not all(map(_is_int, ids)):
        yield Problem(key, f"{ids!r} is not a list of whole numbers")
        return
    values[key] = list(ids)
    if {"max_ngram_size", "n_head_per_ngram"} <= right:
        columns = (values["max_ngram_size"] - 1) * values["n_head_per_ngram"]
    too_many, negative = too_many_heads(len(ids), columns), any(item < 0 for item in ids)
    yield from _first_broken(
        (key, bool(too_many), too_many),
        (key, negative, f"{list(ids)} has negative layers; they are counted from 0"),
        (key, len(set(ids)) != len(ids), f"{list(ids)} names a layer twice"),
    )


def _check_table_size(
    values: Values, layout: Layout, right: set[str], k: float | None
) -> Iterator[Problem]:
    """Check the sizes of tables, after making them of `k` where it is given."""
    key = "engram_table_size"
    if k is not None and (wrong := _scale(values, right, k)):
        yield Problem("k", wrong)
    sizes = values[key]
    if sizes is None and k is None:
        yield Problem(key, "missing; give it, or k as a multiple of engram_vocab_size")
    if sizes is None:
        return
    if not _is_list(sizes) or not all(map(_is_int, sizes)):
        yield Problem(key, f"{sizes!r} is not a list of whole numbers, one per n-gram order")
        return
    values[key] = list(sizes)
    if not {"max_ngram_size", "n_head_per_ngram"} <= right:
        return
    highest, heads = values["max_ngram_size"], values["n_head_per_ngram"]
    # Absurdly large sizes are shown as a power of two.
    words = (str(size) if size < 10**30 else f"2^{size.bit_length() - 1}.." for size in sizes)
    brief = f"[{', '.join(words)}]"
    yield from _first_broken(
        (
            key,
            len(sizes) != highest - 1,
            f"{plural(len(sizes), 'size')} for {plural(highest - 1, 'order')} (2..{highest}); give "
            "one per order",
        ),
        (
            key,
            any(size < 2 * heads for size in sizes),
            f"{brief}: each order needs at least 2 rows for each of its {plural(heads, 'head')}",
        ),
        (key, sum(sizes) >= MAX_ROW_ID, f"{brief} rows do not fit 62-bit row ids"),
        (
            key,
            layout.equal_tables and len(set(sizes)) > 1,
            f"{brief}: layout {values['layout']} has one size for every order",
        ),
    )


def _scale(values: Values, right: set[str], k: float) -> str:
    """Make the sizes of tables of `k`; return the problem with it, else ""."""
    if values["engram_table_size"] is not None:
        return "given together with engram_table_size; keep one of the two"
    if not _is_number(k) or k <= 0:
        return f"{k!r} is not a positive number"
    if {"engram_vocab_size", "max_ngram_size"} <= right:
        if k * values["engram_vocab_size"] >= MAX_ROW_ID:
            return "that many times the vocabulary is too many rows for 62-bit row ids"
        rows = round(k * values["engram_vocab_size"])
        values["engram_table_size"] = [rows] * (values["max_ngram_size"] - 1)
    return ""
