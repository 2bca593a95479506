"""Rules for config values: the defaults of each layout, and the checks of every key."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engram.errors import InputError, Problem
from engram.storage.dtypes import TABLE_DTYPES, dtype_name
from engram.units import plural

if TYPE_CHECKING:
    from engram.config.engram_config import EngramConfig

MAX_ROW_ID = 2**62
# Each head of each layer needs its own prime, and finding one takes a tenth of a millisecond.
MAX_LAYERS = 1024
MAX_HEADS = 2**16


@dataclass(frozen=True, kw_only=True)
class LayoutKeys:
    """The defaults and fixed values that a layout gives to the config.

    Attributes:
        seed: Default seed of the hash multipliers.
        eps: Default epsilon of the gate's norms; None for the machine epsilon of the
            computation's dtype.
        row_multiple: Default of `EngramConfig.row_multiple`.
        kernel_size: Default taps of the convolution; 0 if the layout has no convolution.
        seed_is_fixed: The layout has a fixed seed: only the default is valid.
        equal_tables: Every order must have the same table size.
        ends_after_eos: Look-back always stops at the end-of-text token, and reads it.
        max_ngram_size: Default of the highest n-gram order.
    """

    seed: int
    eps: float | None
    row_multiple: int
    kernel_size: int
    seed_is_fixed: bool = False
    equal_tables: bool = False
    ends_after_eos: bool = False
    max_ngram_size: int = 3


LAYOUT_KEYS: dict[str, LayoutKeys] = {
    "demo": LayoutKeys(seed=42, eps=None, row_multiple=1, kernel_size=4),
    "deepseek_v41": LayoutKeys(
        seed=0,
        eps=1e-20,
        row_multiple=1,
        kernel_size=0,
        seed_is_fixed=True,
        equal_tables=True,
        max_ngram_size=4,
    ),
    "qwen_ple": LayoutKeys(
        seed=1234,
        eps=1e-6,
        row_multiple=128,
        kernel_size=4,
        equal_tables=True,
        ends_after_eos=True,
    ),
}


# Keys with a default that depends on the layout.
_DEFAULTS = (
    *("seed", "row_multiple", "kernel_size", "max_ngram_size", "eps"),
    "ends_after_eos",
)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def resolve(config: EngramConfig, k: float | None) -> list[Problem]:
    """Fill in the layout's defaults and return all problems."""
    problems: list[Problem] = []

    def put(key: str, value: Any) -> None:
        object.__setattr__(config, key, value)

    def wrong(key: str, message: str) -> None:
        problems.append(Problem(key, message))

    keys = LAYOUT_KEYS.get(config.layout) if isinstance(config.layout, str) else None
    if keys is None:
        wrong("layout", f"unknown layout {config.layout!r}; use one of {', '.join(LAYOUT_KEYS)}")
        keys = LAYOUT_KEYS["demo"]
    for key in _DEFAULTS:
        if getattr(config, key) is None:
            put(key, getattr(keys, key))

    def whole(key: str, low: int, high: int, needed: bool = True) -> bool:
        value = getattr(config, key)
        if value is None and not needed:
            return False
        if not _is_int(value):
            is_missing = value is None
            wrong(
                key,
                "missing; it must be a whole number"
                if is_missing
                else f"{value!r} is not a whole number",
            )
            return False
        if not low <= value <= high:
            wrong(key, f"must be in {low}..{high}, got {value}")
            return False
        return True

    if isinstance(config.engram_vocab_size, Sequence) and not isinstance(
        config.engram_vocab_size, str
    ):
        vocab_ok = False
        wrong(
            "engram_vocab_size",
            f"must be one number, the tokenizer's length, got {list(config.engram_vocab_size)!r}. "
            "DeepSeek's configs use this name for rows per HEAD; set engram_table_size = "
            "those x n_head_per_ngram instead",
        )
    else:
        vocab_ok = whole("engram_vocab_size", 2, 2**31 - 1)
    whole("hidden_size", 1, 2**24)
    orders_ok = whole("max_ngram_size", 2, 16)
    heads_ok = whole("n_head_per_ngram", 1, 256)
    width_ok = whole("n_embed_per_ngram", 1, 2**20)
    whole("hc_mult", 1, 64)
    whole("row_multiple", 1, 2**20)
    whole("offload_cache_lines", 0, 2**31)
    if heads_ok and width_ok and config.n_embed_per_ngram % config.n_head_per_ngram:
        width, heads = config.n_embed_per_ngram, config.n_head_per_ngram
        below = width // heads * heads
        near = f"{below} and {below + heads} are" if below else f"{heads} is"
        wrong("n_embed_per_ngram", f"{width} is not a multiple of n_head_per_ngram {heads}; {near}")
    if whole("seed", 0, 2**62) and keys.seed_is_fixed and config.seed != keys.seed:
        wrong(
            "seed",
            f"{config.seed}: layout {config.layout} has a fixed seed, only {keys.seed} is right",
        )
    if whole("kernel_size", 0, 64) and (config.kernel_size == 0) != (keys.kernel_size == 0):
        has = (
            "has no convolution: kernel_size must be 0"
            if keys.kernel_size == 0
            else "has a convolution: at least 1"
        )
        wrong("kernel_size", f"{config.kernel_size}: layout {config.layout} {has}")
    if config.eps is not None and not (_is_number(config.eps) and config.eps > 0):
        wrong("eps", f"{config.eps!r} is not a positive number")
    for key in ("use_offload", "ends_after_eos"):
        if not isinstance(getattr(config, key), bool):
            wrong(key, f"{getattr(config, key)!r} is not true or false")
    if config.tokenizer is not None and not isinstance(config.tokenizer, str):
        wrong("tokenizer", f"{config.tokenizer!r} is not a string")
    try:
        if config.table_dtype is not None:
            put("table_dtype", dtype_name(config.table_dtype))
    except (InputError, AttributeError):
        known = ", ".join(TABLE_DTYPES)
        wrong("table_dtype", f"{config.table_dtype!r} is not a table dtype; use one of {known}")
    _check_tokens(config, keys, vocab_ok, wrong)
    _check_layer_ids(config, orders_ok and heads_ok, put, wrong)
    _check_table_size(config, k, keys, vocab_ok and orders_ok, orders_ok and heads_ok, put, wrong)
    return problems


def _check_tokens(
    config: EngramConfig, keys: LayoutKeys, vocab_ok: bool, wrong: Callable[[str, str], None]
) -> None:
    ids: dict[str, Any] = {"pad_id": config.pad_id, "eos_id": config.eos_id}
    if isinstance(config.pad_id, str):
        ids.pop("pad_id")
    for key, value in ids.items():
        if value is None:
            continue
        if not _is_int(value) or value < 0:
            wrong(key, f"{value!r} is not a token id")
        elif vocab_ok and value >= config.engram_vocab_size:
            wrong(key, f"must be below engram_vocab_size {config.engram_vocab_size}, got {value}")
    if keys.ends_after_eos and config.eos_id is None:
        wrong(
            "eos_id",
            f"missing: layout {config.layout} stops its look-back at the end-of-text token",
        )
    elif config.ends_after_eos and config.eos_id is None:
        wrong("ends_after_eos", "true without eos_id: set eos_id to the token that ends documents")
    if keys.ends_after_eos and not config.ends_after_eos:
        wrong("ends_after_eos", f"false: layout {config.layout} always ends documents with eos_id")


def too_many_heads(n_layers: int, n_columns: int) -> str:
    """Return the problem of a memory with too many layers or heads in all; else ""."""
    if n_layers > MAX_LAYERS:
        return f"{n_layers:,} layers; at most {MAX_LAYERS:,} can have a memory"
    if n_layers * n_columns > MAX_HEADS:
        heads = n_layers * n_columns
        return f"{n_layers:,} layers of {n_columns:,} heads are {heads:,}; at most {MAX_HEADS:,}"
    return ""


def _check_layer_ids(
    config: EngramConfig,
    columns_ok: bool,
    put: Callable[[str, Any], None],
    wrong: Callable[[str, str], None],
) -> None:
    ids = config.layer_ids
    if (
        not isinstance(ids, Sequence)
        or isinstance(ids, str)
        or not all(_is_int(item) for item in ids)
    ):
        wrong("layer_ids", f"{ids!r} is not a list of whole numbers")
    elif too_many := too_many_heads(len(ids), config.n_columns if columns_ok else 1):
        wrong("layer_ids", too_many)
    elif any(item < 0 for item in ids):
        wrong("layer_ids", f"{list(ids)} has negative layers; layers are counted from 0")
    elif len(set(ids)) != len(ids):
        wrong("layer_ids", f"{list(ids)} names a layer twice")
    else:
        put("layer_ids", list(ids))


def _check_table_size(
    config: EngramConfig,
    k: float | None,
    keys: LayoutKeys,
    can_scale: bool,
    can_check: bool,
    put: Callable[[str, Any], None],
    wrong: Callable[[str, str], None],
) -> None:
    sizes = config.engram_table_size
    if k is not None:
        if sizes is not None:
            wrong("k", "given together with engram_table_size; keep one of the two")
        elif not _is_number(k) or k <= 0:
            wrong("k", f"{k!r} is not a positive number")
        elif can_scale and k * config.engram_vocab_size >= MAX_ROW_ID:
            wrong("k", "that many times the vocabulary are too many rows for 62-bit row ids")
            return
        elif can_scale:
            sizes = [round(k * config.engram_vocab_size)] * (config.max_ngram_size - 1)
            put("engram_table_size", sizes)
        else:
            return
    if sizes is None:
        if k is None:
            wrong("engram_table_size", "missing; give it, or k as a multiple of engram_vocab_size")
        return
    if (
        not isinstance(sizes, Sequence)
        or isinstance(sizes, str)
        or not all(_is_int(size) for size in sizes)
    ):
        wrong(
            "engram_table_size", f"{sizes!r} is not a list of whole numbers, one per n-gram order"
        )
        return
    put("engram_table_size", list(sizes))
    if not can_check:
        return
    orders, heads = config.max_ngram_size - 1, config.n_head_per_ngram
    if len(sizes) != orders:
        wrong(
            "engram_table_size",
            f"{plural(len(sizes), 'size')} for {plural(orders, 'order')} "
            f"(2..{config.max_ngram_size}); give one per order",
        )
    elif any(size < 2 * heads for size in sizes):
        wrong(
            "engram_table_size",
            f"{_brief(sizes)}: each order needs at least 2 rows for each of its "
            f"{plural(heads, 'head')}",
        )
    elif sum(sizes) >= MAX_ROW_ID:
        wrong("engram_table_size", f"{_brief(sizes)} rows do not fit 62-bit row ids")
    elif keys.equal_tables and len(set(sizes)) > 1:
        wrong(
            "engram_table_size",
            f"{list(sizes)}: layout {config.layout} has one size for every order",
        )


def _brief(sizes: Sequence[int]) -> str:
    """Format sizes for a message; absurdly large ones as a power of two."""
    words = (str(size) if size < 10**30 else f"2^{size.bit_length() - 1}.." for size in sizes)
    return f"[{', '.join(words)}]"
