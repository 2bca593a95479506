"""Qwen's per-layer n-gram embedding: tables in shards, constants as buffers, fp8 variants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from engram.addressing.multipliers import multipliers
from engram.addressing.primes import HeadPrimes, head_primes, stored_rows
from engram.checkpoints.published.family import (
    MOST_HEADS,
    MOST_ORDERS,
    MOST_SHARDS,
    SHARD,
    Expected,
    Family,
    Key,
    Memory,
    Released,
    Settings,
    Slot,
    without_scale,
)
from engram.checkpoints.published.stored import Stored
from engram.checks import Verdict, first_of
from engram.config.engram_config import EngramConfig
from engram.layouts import QWEN_PLE

_TABLE = "ple_embedding.ngram_embedding.weight"
_MULTIPLIERS = "ple_embedding.layer_multipliers"
_SIZES = "ple_embedding.ngram_heads_vocab_sizes"
_OFFSETS = "ple_embedding.ngram_heads_offsets"
_NAME = re.compile(r"^((?:.*\.)?layers\.)(\d+)\.ple\.(.+)$")


def _states(config: Mapping[str, Any]) -> bool:
    return bool(config.get("ple_layer_ids"))


def _find(name: str) -> Slot | None:
    match = _NAME.match(name)
    if match is None:
        return None
    key, layer = match[3], int(match[2])
    if key in (_MULTIPLIERS, _SIZES, _OFFSETS):
        return Slot(layer, key, "constants", "constants")
    shard = SHARD.search(key)
    key, is_scale = without_scale(SHARD.sub("", key))
    if key == _TABLE:
        return Slot(layer, key, "table", "table", is_scale, int(shard[1]) if shard else 0)
    return Slot(layer, key, key.split(".")[0], "dense", is_scale)


def _name_of(key: Key, shard: int, scale: bool, names: Mapping[str, Slot]) -> str:
    match = _NAME.match(next(iter(names), ""))
    start = match[1] if match else "model.language_model.layers."
    tensor = key[1].replace(".weight", ".weight_scale") if scale else key[1]
    spelt = next(filter(None, map(SHARD.search, names)), None)
    if key[1] == _TABLE and (not names or spelt):
        word = "shards." if spelt and spelt[0].startswith(".shards.") else "shard_"
        tensor = tensor.replace("ngram_embedding.", f"ngram_embedding.{word}{shard}.")
    return f"{start}{key[0]}.ple.{tensor}"


def _describe(stored: Stored) -> Memory:
    settings = Settings(stored)
    hidden, orders = (
        settings.whole("hidden_size"),
        settings.whole("ngram_size", low=2, high=MOST_ORDERS),
    )
    heads = settings.whole("heads_per_ngram", high=MOST_HEADS)
    memory_width = settings.whole("ple_embed_dim", default=hidden)
    base = settings.whole("ngram_vocab_size_base", low=2)
    shards = settings.whole("split_ngram_parts", default=1, high=MOST_SHARDS)
    eos = settings.get("eos_token_id")
    values = {
        "layout": QWEN_PLE.name,
        "tokenizer": None if stored.folder is None else str(stored.folder),
        "hidden_size": hidden,
        "engram_vocab_size": settings.whole("vocab_size", low=2),
        "engram_table_size": [base * heads] * (orders - 1),
        "max_ngram_size": orders,
        "n_embed_per_ngram": memory_width // (orders - 1),
        "n_head_per_ngram": heads,
        "layer_ids": [layer - 1 for layer in sorted(settings.wholes("ple_layer_ids"))],
        "hc_mult": settings.whole("hc_count", default=1),
        "kernel_size": settings.whole("ple_conv_kernel_size", default=4),
        "eos_id": eos[0] if isinstance(eos, list) and eos else eos,
        "seed": settings.whole("seed", default=1234, low=0),
        "eps": settings.get("rms_norm_eps"),
        "row_multiple": settings.whole("make_ngram_vocab_size_divisible_by", default=128),
    }
    settings.done()
    config = EngramConfig(**values)
    expected: dict[Key, Expected] = {}
    hash_rows: dict[int | None, int] = {}
    for layer, primes in head_primes(config).items():
        hash_rows[layer] = sum(map(sum, primes))
        rows = stored_rows(primes, config.row_multiple)
        expected[layer, _TABLE] = Expected(shape=(rows, config.row_width), shards=shards)
        for name, shape in QWEN_PLE.dense_shapes(config).items():
            expected[layer, name] = Expected(shape=shape)
        expected[layer, _MULTIPLIERS] = Expected(shape=(orders,))
        expected[layer, _SIZES] = Expected(shape=(config.n_columns,))
        expected[layer, _OFFSETS] = Expected(shape=(config.n_columns,))
    return Memory(
        config=config,
        reads=config.n_columns,
        hash_rows=hash_rows,
        expected=expected,
        notes=(f"rows rounded up to a multiple of {config.row_multiple}",),
    )


def _heads(found: Released) -> dict[int, list[int]]:
    """The stored head sizes; those of the config where a buffer is not in the files."""
    if found.memory.config is None:
        return {}
    heads: dict[int, list[int]] = {}
    for layer, primes in head_primes(found.memory.config).items():
        names = found.names((layer, _SIZES))
        from_config = [rows for order in primes for rows in order]
        heads[layer] = found.stored.integers(names[0]) if names else from_config
    return heads


def _check_constants(found: Released, tokenizer: str | None) -> Verdict:
    config = found.memory.config
    if config is None:
        return None, "there is no config to compute them from"
    factors, primes = multipliers(config, config.engram_vocab_size), head_primes(config)
    right = {layer: _constants(factors[layer], primes[layer]) for layer in config.layer_ids}
    problems, unread = [], 0
    for layer, constants in right.items():
        for key, values in constants.items():
            names = found.names((layer, key))
            if not names:
                unread += 1
                continue
            stored = found.stored.integers(names[0])
            if stored != values:
                others = {other: each[key] for other, each in right.items() if other != layer}
                problems.append(_difference(names[0], stored, values, others))
    if problems:
        return False, first_of(problems)
    if unread:
        return None, f"{unread} of {3 * len(right)} buffers are not in the files"
    return True, "the stored multipliers, head sizes and offsets are those of the config"


def _constants(factors: tuple[int, ...], primes: HeadPrimes) -> dict[str, list[int]]:
    heads = [prime for row in primes for prime in row]
    return {
        _MULTIPLIERS: list(factors),
        _SIZES: heads,
        _OFFSETS: [0, *accumulate(heads[:-1])],
    }


def _difference(
    name: str, stored: list[int], values: list[int], others: Mapping[int, list[int]]
) -> str:
    for other, theirs in others.items():
        if stored == theirs:
            return f"{name} holds the values of layer {other}: layers are swapped"
    if len(stored) != len(values):
        return f"{name} has {len(stored)} values, not {len(values)}"
    i = next(i for i, value in enumerate(values) if stored[i] != value)
    hint = ""
    if name.endswith("layer_multipliers"):
        hint = "; they follow from seed and vocab_size: of another tokenizer or config?"
    return f"{name}[{i}] is {stored[i]}, not {values[i]}{hint}"


FAMILY = Family(
    layout=QWEN_PLE.name,
    title=QWEN_PLE.title,
    source="transformers models/qwen4_exp and conversion_mapping.py",
    states=_states,
    mark=re.compile(r"\.ple\.ple_embedding\.ngram_embedding\."),
    find=_find,
    name_of=_name_of,
    describe=_describe,
    checks={"constants": _check_constants},
    heads=_heads,
)
