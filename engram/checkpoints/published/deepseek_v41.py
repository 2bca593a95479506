"""DeepSeek-V4.1: names as published, of vLLM, NeMo and transformers' pull request; fp8 and fp4."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engram.addressing.primes import head_primes
from engram.checkpoints.published.family import (
    MOST_HEADS,
    MOST_ORDERS,
    Expected,
    Family,
    Key,
    Memory,
    Released,
    Settings,
    Slot,
    text_part,
    without_scale,
)
from engram.checkpoints.published.stored import Stored
from engram.checks import Verdict
from engram.config.engram_config import EngramConfig
from engram.errors import MissingFileError, Problem
from engram.layouts import DEEPSEEK_V41

# Behind ``layers.N.engram.``: published names, and those of vLLM.
_TENSORS = ("embed.weight", "wkv.weight", "q_weight", "k_weight")
_VLLM_TABLE, _TABLE = "embed_tokens.", "embed."
_NAME = re.compile(r"^((?:.*\.)?layers\.)(\d+)(\.engram\.)(.+)$")
# Known of the release alone: equal sizes of two compressed vocabularies do not make them equal.
_RELEASED_SIZES = (129280, 99092)
_RELEASED_MAP = "c60a86322ec17b4142bfef3c57a8d81fb428550cdf487f88a4320cb59fe46481"


def _states(config: Mapping[str, Any]) -> bool:
    model_type = str(config.get("model_type", ""))
    return "engram_layer_ids" in config or model_type.startswith(("deepseek_v41", "deepseek_v4.1"))


def _find(name: str) -> Slot | None:
    match = _NAME.match(name)
    if match is None:
        return None
    key = match[4]
    if key.startswith(_VLLM_TABLE):
        key = _TABLE + key.removeprefix(_VLLM_TABLE)
    key, is_scale = without_scale(key)
    part = "table" if key == _TABLE + "weight" else key.removesuffix(".weight")
    return Slot(int(match[2]), key, part, "table" if part == "table" else "dense", is_scale)


def _name_of(key: Key, shard: int, scale: bool, names: Mapping[str, Slot]) -> str:
    example = next(iter(names), "layers.0.engram.embed.weight")
    match = _NAME.match(example)
    start = match[1] if match else "layers."
    vllm = any(f".engram.{_VLLM_TABLE}" in name for name in names)
    tensor = key[1].removesuffix("weight") + "scale" if scale else key[1]
    if vllm:
        tensor = tensor.replace(_TABLE, _VLLM_TABLE).replace("scale", "weight_scale_inv")
    return f"{start}{key[0]}.engram.{tensor}"


def _describe(stored: Stored) -> Memory:
    settings = Settings(stored)
    heads, width = (
        settings.whole("engram_n_heads", high=MOST_HEADS),
        settings.whole("engram_head_dim"),
    )
    orders = settings.whole("engram_max_ngram_size", low=2, high=MOST_ORDERS)
    base = settings.whole("engram_vocab_size", low=2)
    values = {
        "layout": DEEPSEEK_V41.name,
        "tokenizer": None if stored.folder is None else str(stored.folder),
        "hidden_size": settings.whole("hidden_size", "dim"),
        "engram_vocab_size": settings.whole("vocab_size", low=2),
        "engram_table_size": [base * heads] * (orders - 1),
        "max_ngram_size": orders,
        "n_embed_per_ngram": heads * width,
        "n_head_per_ngram": heads,
        "layer_ids": settings.wholes("engram_layer_ids"),
        "hc_mult": settings.whole("hc_mult", default=1),
        "pad_id": settings.whole("engram_pad_token_id", "engram_pad_id", default=2, low=0),
        "seed": settings.whole("engram_seed", default=0, low=0),
        "eps": settings.get("rms_norm_eps", "norm_eps"),
    }
    row_block, wkv_block = _blocks(stored, settings)
    settings.done()
    config = EngramConfig(**values)
    hash_rows: dict[int | None, int] = {
        layer: sum(map(sum, primes)) for layer, primes in head_primes(config).items()
    }
    expected: dict[Key, Expected] = {}
    for layer, rows in hash_rows.items():
        expected[layer, "embed.weight"] = Expected(shape=(rows, width), block=row_block)
        for name, shape in DEEPSEEK_V41.dense_shapes(config).items():
            block = wkv_block if name == "wkv.weight" else None
            expected[layer, name] = Expected(shape=shape, block=block)
    return Memory(
        config=config,
        reads=config.n_columns,
        hash_rows=hash_rows,
        expected=expected,
        notes=(f"orders 2 to {orders}, {heads} heads each",),
    )


def _blocks(stored: Stored, settings: Settings) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns that share a scale: of the tables, and of the projection."""
    stated = stored.config.get("quantization_config") or settings.get("quantization_config") or {}
    if not isinstance(stated, dict):
        settings.problems.append(Problem("quantization_config", f"{stated!r} is no object"))
        stated = {}
    columns, block = stated.get("engram_block_size", 32), stated.get("weight_block_size", [32, 32])
    sizes = [columns, *block] if isinstance(block, list) and len(block) == 2 else [None]
    if not all(type(size) is int and size > 0 for size in sizes):
        what = f"engram_block_size {columns!r} or weight_block_size {block!r} is no size"
        settings.problems.append(Problem("quantization_config", what))
        return (1, 32), (32, 32)
    return (1, columns), (block[0], block[1])


def _heads(found: Released) -> dict[int, list[int]]:
    """The primes of the config: the files store their sums alone."""
    if found.memory.config is None:
        return {}
    primes = head_primes(found.memory.config)
    return {layer: [rows for order in primes[layer] for rows in order] for layer in primes}


def _check_rows(found: Released, tokenizer: str | None) -> Verdict:
    stated = text_part(found.stored.config).get("engram_num_embeddings")
    sums = list(found.memory.hash_rows.values())
    layers = ", ".join(map(str, found.memory.hash_rows))
    if stated is None:
        return None, f"config.json states no engram_num_embeddings; sums of primes: {sums}"
    if stated == sums:
        shown = " and ".join(f"{rows:,}" for rows in sums)
        return True, f"sums of primes are the rows that the config states: {shown}"
    if isinstance(stated, list) and sorted(map(str, stated)) == sorted(map(str, sums)):
        return False, f"engram_num_embeddings {stated} is in another order than layers {layers}"
    return False, f"engram_num_embeddings is {stated}; primes of layers {layers} sum to {sums}"


def _check_constants(found: Released, tokenizer: str | None) -> Verdict:
    size = text_part(found.stored.config).get("engram_compressed_vocab_size")
    if type(size) is not int or size < 1 or found.memory.config is None:
        return False, f"engram_compressed_vocab_size is {size!r}: multipliers follow from it"
    from engram.addressing.multipliers import multipliers

    drawn = multipliers(found.memory.config, size)
    shown = "; ".join(f"layer {layer} {list(values)}" for layer, values in drawn.items())
    return None, f"the files store no multipliers; those of the config are: {shown}"


def _check_tokenizer(found: Released, tokenizer: str | None) -> Verdict:
    from engram.addressing.addresses import map_digest
    from engram.addressing.tokenizer_files import load_tokenizer
    from engram.addressing.vocabulary import compressed_map

    settings = text_part(found.stored.config)
    stated = settings.get("engram_compressed_vocab_size")
    try:
        known = load_tokenizer(tokenizer or found.stored.folder or found.stored.name)
    except MissingFileError as error:
        return None, error.message
    token_map = compressed_map(known)
    size, digest = int(token_map.max()) + 1, map_digest(token_map)
    if size != stated:
        what = f"{len(token_map):,} ids compress to {size:,}, the config states {stated!r}"
        return False, f"another tokenizer: its {what}"
    if (settings.get("vocab_size"), stated) == _RELEASED_SIZES and digest != _RELEASED_MAP:
        return False, f"another tokenizer: its map is {digest[:16]}..., not {_RELEASED_MAP[:16]}..."
    return True, f"{len(token_map):,} ids compress to {size:,}, map {digest[:16]}..."


FAMILY = Family(
    layout=DEEPSEEK_V41.name,
    title=DEEPSEEK_V41.title,
    source="deepseek-ai/DeepSeek-V4.1-Flash config.json and inference/engram.py; vLLM; NeMo",
    states=_states,
    mark=re.compile(r"\.engram\.embed(_tokens)?\.weight$"),
    find=_find,
    name_of=_name_of,
    describe=_describe,
    checks={"rows": _check_rows, "constants": _check_constants, "tokenizer": _check_tokenizer},
    heads=_heads,
)
