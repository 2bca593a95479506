"""Whole memories in GGUF, in any dialect: true shapes and constants, tensors that take no disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram import EngramTokenizer
from engram.addressing.addresses import Addresses
from engram.addressing.multipliers import multipliers
from engram.addressing.primes import head_primes, stored_rows
from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.config.templates import load_template
from engram.layouts.gguf_dialect import Fact
from engram.layouts.gguf_dialects import DIALECTS
from engram.storage.ggml_types import type_named
from engram.storage.gguf_headers import read_gguf
from support.gguf_files import Array, Tensor, write
from support.layouts import layout_config
from support.paths import BPE

BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
# Type and width of the rows that a dialect is known for.
ROWS = {
    "gguf_ds4": ("I8", 264),
    "gguf_tarruda": ("I8", 256),
    "gguf_jig": ("I8", 256),
    "gguf_mx": ("MXFP4", 256),
    "gguf_qwen4exp": ("IQ4_NL", 160),
}
_WIDTHS = {"deepseek_v41": 256, "qwen_ple": 160}
_IDS = 600  # compressed ids of the short token map
_TOKENS = "tokenizer.ggml.tokens"
_TEMPLATES = {"deepseek_v41": "deepseek-v4.1-flash", "qwen_ple": "qwen3.8-flash-next"}
_V41_DIMS = {"q_weight": (5120, 4), "k_weight": (5120, 4), "wkv.weight": (6144, 25600)}
# Of a hidden size of 32, four streams and three orders of two heads.
_SMALL_DIMS = {"wkv.weight": (1536, 160), "conv1d.weight": (4, 32)}
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
    draws = multipliers(config, _IDS if layout == "deepseek_v41" else config.engram_vocab_size)
    rows = [stored_rows(orders, config.row_multiple) for orders in heads.values()]
    return {
        "layer_ids": list(primes),
        "rows": rows,
        "orders": config.max_ngram_size,
        "heads": config.n_head_per_ngram,
        "row_width": config.row_width,
        "compressed_vocab_size": _IDS,
        "size_base": config.rows_per_head[0],
        "pad_id": 2,
        "token_map": [token % _IDS for token in range(1000)],
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
    values: Mapping[str, Array] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    prefix: str | None = None,
    missing_bytes: int = 0,
    small: bool = False,
    kinds: Mapping[str, str] | None = None,
    kept: Mapping[str, Any] | None = None,
    renamed: Mapping[str, str] | None = None,
    row_type: tuple[str, int] | None = None,
) -> Path:
    """Write a released memory in a dialect.

    Args:
        path: The file.
        name: Name of the dialect.
        without: Facts that are left out.
        changed: Facts with other values.
        values: Keys beside the memory's own.
        tensors: Tensors beside the memory's own.
        prefix: Of its keys; the architecture when None.
        missing_bytes: Bytes that are missing at the end.
        small: Weights are a few values each.
        kinds: Facts with other element types.
        kept: Facts whose key has another value, while tensors and other keys stay as they are.
        renamed: Tensors with other names.
        row_type: ggml type and width of the rows; those that the dialect is known for when None.
    """
    dialect = BY_NAME[name]
    architecture = dialect.architectures[0]
    stated = {**constants(dialect.layout), **(changed or {})}
    keys: dict[str, Array | tuple[str, Any]] = {
        "general.architecture": ("string", architecture),
        "general.alignment": ("uint32", 16384),
        **(values or {}),
    }
    found: dict[str, Tensor] = {"token_embd.weight": Tensor((64, 100), 1), **(tensors or {})}
    for fact, place in dialect.facts.items():
        if fact in without:
            continue
        if place.is_tensor:
            found[place.name] = _constant(place, stated[fact])
            continue
        value = {**stated, **(kept or {})}[fact]
        is_list = isinstance(value, list)
        kind = (kinds or {}).get(fact, place.kinds[0])
        key = f"{prefix or architecture}.{place.name}"
        keys[key] = Array(kind, value) if is_list else (kind, value)
    dims = _V41_DIMS if dialect.layout == "deepseek_v41" else _PLE_DIMS
    for layer_id, rows in zip(stated["layer_ids"], stated["rows"], strict=True):
        for part, template in dialect.weights.items():
            kind = "F32" if part != "wkv.weight" else "F16"
            shape = _SMALL_DIMS.get(part, (32, 4)) if small else dims[part]
            found[template.replace("{layer}", str(layer_id))] = Tensor(shape, type_named(kind).id)
        if dialect.table is not None:
            kind, width = row_type or ROWS.get(name, ("Q8_0", 256))
            table = Tensor((width, rows), type_named(kind).id)
            found[dialect.table.replace("{layer}", str(layer_id))] = table
        if dialect.scales is not None:
            scales = Tensor((8, rows), type_named("I8").id)
            found[dialect.scales.replace("{layer}", str(layer_id))] = scales
    found = {(renamed or {}).get(tensor, tensor): info for tensor, info in found.items()}
    write(path, keys, found, missing_bytes=missing_bytes)
    written = {it: place for it, place in dialect.facts.items() if place.is_tensor}
    fill(
        path,
        {
            place.name: np.array(stated[fact], place.kinds[0])
            for fact, place in written.items()
            if fact not in without
        },
    )
    return path


def facts_of(addresses: Addresses, pad_id: int) -> dict[str, Any]:
    """Return a memory's constants by our names.

    Args:
        addresses: The memory, with its token map if it has one.
        pad_id: Its pad, as the dialect states it: compressed or not.
    """
    layers = addresses.layers
    token_map = addresses.token_map
    return {
        "layer_ids": addresses.layer_ids,
        "rows": [layer.stored_rows for layer in layers],
        "orders": addresses.max_ngram_size,
        "heads": addresses.n_heads,
        "compressed_vocab_size": addresses.vocab_size,
        "pad_id": pad_id,
        "token_map": [] if token_map is None else token_map.tolist(),
        "primes": [prime for layer in layers for prime in layer.heads],
        "offsets": [offset for layer in layers for offset in layer.offsets],
        "multipliers": [factor for layer in layers for factor in layer.multipliers],
        "eos_token_id": addresses.fill,
    }


def fill(path: Path, content: Mapping[str, NDArray[Any]]) -> None:
    """Write the data of tensors of a file, by name."""
    tensors = read_gguf(path).tensors
    with path.open("r+b") as file:
        for name, values in content.items():
            assert values.nbytes == tensors[name].data_bytes, name
            file.seek(tensors[name].start)
            file.write(values.tobytes())


def addresses_of(name: str) -> Addresses:
    """Constants of a small memory of a dialect's layout, with rows as wide as the released ones."""
    layout = BY_NAME[name].layout
    config = layout_config(layout, n_embed_per_ngram=2 * _WIDTHS[layout], n_head_per_ngram=2)
    if layout == "qwen_ple":
        config = replace(config, layer_ids=[1])
    return EngramTokenizer(config, BPE).addresses


def write_filled(
    path: Path, name: str, **changes: Any
) -> tuple[Addresses, dict[int | None, list[NDArray[np.uint8]]]]:
    """Write that memory with random bytes in its tables.

    Args:
        path: The file.
        name: Name of the dialect.
        changes: Facts with other values.

    Returns:
        Its addresses, and the bytes of each table's tensors by layer.
    """
    addresses = addresses_of(name)
    dialect = BY_NAME[name]
    pad = addresses.fill
    if dialect.pad_is_raw:
        pad = addresses.token_map.tolist().index(addresses.fill)
    facts = facts_of(addresses, pad)
    vocab = Array("string", ["t"] * addresses.raw_vocab_size)
    changed = {**facts, **changes}
    write_memory(path, name, changed=changed, values={_TOKENS: vocab}, small=True)
    content: dict[str, NDArray[Any]] = {}
    generator = np.random.default_rng(5)
    tables: dict[int | None, list[NDArray[np.uint8]]] = {}
    for table in open_gguf(path).tables:
        own = []
        for tensor in table.tensors:
            shape = (table.rows, tensor.row_bytes)
            # Small bytes are of no encoding's NaN or infinity.
            values = generator.integers(0, 60, shape).astype(np.uint8)
            content[tensor.name] = values
            own.append(values)
        tables[table.layer_id] = own
    fill(path, content)
    return addresses, tables


def _constant(place: Fact, value: list[int]) -> Tensor:
    kind = {"int32": "I32", "int64": "I64"}[place.kinds[0]]
    return Tensor((len(value),), type_named(kind).id)
