"""Whole memories in GGUF, in any dialect: true shapes and constants, tensors that take no disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from engram.addressing.multipliers import multipliers
from engram.addressing.primes import head_primes, stored_rows
from engram.config.templates import load_template
from engram.layouts.gguf_dialect import Fact
from engram.layouts.gguf_dialects import DIALECTS
from engram.storage.ggml_types import type_named
from support.gguf_files import Array, Tensor, write

BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
# Type and width of the rows that a dialect is known for.
ROWS = {
    "gguf_ds4": ("I8", 264),
    "gguf_tarruda": ("I8", 256),
    "gguf_jig": ("I8", 256),
    "gguf_mx": ("MXFP4", 256),
    "gguf_qwen4exp": ("IQ4_NL", 160),
}
_TEMPLATES = {"deepseek_v41": "deepseek-v4.1-flash", "qwen_ple": "qwen3.8-flash-next"}
_V41_DIMS = {"q_weight": (5120, 4), "k_weight": (5120, 4), "wkv.weight": (6144, 25600)}
_PLE_DIMS = {
    "key_proj.weight": (2560, 10240),
    "value_proj.weight": (2560, 2560),
    "conv1d.weight": (4, 10240),
    **{f"norm_{name}.weight": (10240,) for name in ("key", "query", "conv")},
}


@cache
def constants(layout: str) -> Mapping[str, Any]:
    """Facts of the released memory of a layout, by our names; the token map is a short one."""
    config = load_template(_TEMPLATES[layout])
    heads = head_primes(config)
    primes = {layer_id: list(chain(*orders)) for layer_id, orders in heads.items()}
    draws = multipliers(config, 99092 if layout == "deepseek_v41" else config.engram_vocab_size)
    rows = [stored_rows(orders, config.row_multiple) for orders in heads.values()]
    return {
        "layer_ids": list(primes),
        "rows": rows,
        "orders": config.max_ngram_size,
        "heads": config.n_head_per_ngram,
        "row_width": config.row_width,
        "compressed_vocab_size": 99092,
        "size_base": config.rows_per_head if isinstance(config.rows_per_head, int) else 0,
        "pad_id": 2,
        "token_map": [token % 99092 for token in range(1000)],
        "primes": [prime for each in primes.values() for prime in each],
        "offsets": [sum(each[:at]) for each in primes.values() for at in range(len(each))],
        "multipliers": [it for draw in draws.values() for it in draw],
        "encoding": "e4m3_e8m0_32_row264",
        "fingerprint": "0" * 64,
        "present": True,
        "table_shards": ["model-00001.safetensors"],
        "kernel_size": 4,
        "eos_token_id": 248044,
        "image_token_id": 248056,
        "hash_id": "splitmix64",
        "seed": 1234,
    }


def write_memory(
    path: Path,
    name: str,
    *,
    without: Collection[str] = (),
    changed: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    prefix: str | None = None,
    missing_bytes: int = 0,
) -> Path:
    """Write a released memory in a dialect.

    Args:
        path: The file.
        name: Name of the dialect.
        without: Facts that are left out.
        changed: Facts with other values.
        tensors: Tensors beside the memory's own.
        prefix: Of its keys; the architecture when None.
        missing_bytes: Bytes that are missing at the end.
    """
    dialect = BY_NAME[name]
    architecture = dialect.architectures[0]
    stated = {**constants(dialect.layout), **(changed or {})}
    values: dict[str, Array | tuple[str, Any]] = {
        "general.architecture": ("string", architecture),
        "general.alignment": ("uint32", 16384),
    }
    found: dict[str, Tensor] = {"token_embd.weight": Tensor((64, 100), 1), **(tensors or {})}
    for fact, place in dialect.facts.items():
        if fact in without:
            continue
        if place.is_tensor:
            found[place.name] = _constant(place, stated[fact])
            continue
        value = stated[fact]
        is_list = isinstance(value, list)
        kind = place.kinds[0]
        key = f"{prefix or architecture}.{place.name}"
        values[key] = Array(kind, value) if is_list else (kind, value)
    dims = _V41_DIMS if dialect.layout == "deepseek_v41" else _PLE_DIMS
    for layer_id, rows in zip(stated["layer_ids"], stated["rows"], strict=True):
        for part, template in dialect.weights.items():
            kind = "F32" if part != "wkv.weight" else "F16"
            shape = dims[part]
            found[template.replace("{layer}", str(layer_id))] = Tensor(shape, type_named(kind).id)
        if dialect.table is not None:
            kind, width = ROWS.get(name, ("Q8_0", 256))
            table = Tensor((width, rows), type_named(kind).id)
            found[dialect.table.replace("{layer}", str(layer_id))] = table
        if dialect.scales is not None:
            scales = Tensor((8, rows), type_named("I8").id)
            found[dialect.scales.replace("{layer}", str(layer_id))] = scales
    return write(path, values, found, missing_bytes=missing_bytes)


def _constant(place: Fact, value: list[int]) -> Tensor:
    kind = {"int32": "I32", "int64": "I64"}[place.kinds[0]]
    return Tensor((len(value),), type_named(kind).id)
