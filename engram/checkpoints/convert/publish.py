"""Writes memories under published names: tensors, and the config that their readers look for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import LayerAddresses
from engram.checkpoints.read.stored_tensor import StoredTensor
from engram.checkpoints.read.tensor_names import OFFSETS, TABLE
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError
from engram.layouts import get_layout
from engram.storage.dtypes import QUANTISED

# Layouts that have published names, and the quantised dtypes that those have tensors for.
PUBLISHED: Mapping[str, tuple[str, ...]] = {"demo": (), "deepseek_v41": ("fp8",), "qwen_ple": ()}

_WHY_NOT = {
    "demo": "the demo's module adds a convolution and biased projections to what it reads, from "
    "compressed ids",
    "deepseek_v41": "V4.1's module has no convolution, no biases and no norm before a convolution, "
    "and reads compressed ids",
    "qwen_ple": "Qwen's memory reads raw ids with multipliers of its own, so that every row would "
    "be another n-gram's",
}

# A published name, and its values: stored ones, or constants.
Named = tuple[str, "StoredTensor | NDArray[np.int64]"]


def check_expressible(config: EngramConfig, to: str, dtype: str) -> None:
    """Refuse what a published format has no place for.

    Args:
        config: The memory.
        to: Layout whose names are to be used.
        dtype: dtype of the tables.

    Raises:
        LayoutError: With the reason.
    """
    layout = config.layout
    if layout != to:
        raise LayoutError(
            f"A memory of layout {layout} cannot be written as {to}: {_WHY_NOT[to]}.",
            f"Its own names are: --to {layout}",
            layout=layout,
            to=to,
        )
    if config.ends_after_eos and not get_layout(config.layout).ends_after_eos:
        raise LayoutError(
            f"The memory ends documents with token {config.eos_id}, which the published format of "
            f"{to} does not: whoever reads it would look rows up across documents.",
            "Write it as --to attached.",
            to=to,
            eos_id=config.eos_id,
        )
    if dtype in QUANTISED and dtype not in PUBLISHED[to]:
        raise LayoutError(
            f"The published format of {to} has no tensors for {dtype} tables.",
            "Use --dtype bfloat16 or float32, or --to attached.",
            to=to,
            dtype=dtype,
        )


def scale_name(name: str) -> str:
    """Name the scales of a published tensor (DeepSeek-V4.1's)."""
    return name.removesuffix("weight") + "scale"


def published_tensors(
    config: EngramConfig, layer: LayerAddresses, tensors: Mapping[str, StoredTensor]
) -> Iterator[Named]:
    """Name one layer's tensors as their layout was published.

    Args:
        config: The memory.
        layer: The layer's constants.
        tensors: Its parameters under our names.

    Yields:
        Names with values.
    """
    named = {"demo": _demo, "deepseek_v41": _deepseek_v41, "qwen_ple": _qwen_ple}[config.layout]
    yield from named(config, layer, tensors)


def _demo(
    config: EngramConfig, layer: LayerAddresses, tensors: Mapping[str, StoredTensor]
) -> Iterator[Named]:
    prefix, hidden = f"layers.{layer.layer_id}.engram.", config.hidden_size
    yield prefix + OFFSETS, np.array(layer.offsets, dtype="<i8")
    for name, theirs in {
        TABLE: TABLE,
        "value_proj.weight": "value_proj.weight",
        "value_proj.bias": "value_proj.bias",
        "conv.weight": "short_conv.conv.weight",
    }.items():
        yield prefix + theirs, tensors[name]
    for i in range(config.hc_mult):
        weight, bias = tensors["key_proj.weight"], tensors["key_proj.bias"]
        yield f"{prefix}key_projs.{i}.weight", weight.part(i * hidden, (hidden, weight.width))
        yield f"{prefix}key_projs.{i}.bias", bias.part(i * hidden, (hidden,))
        for name, theirs in {
            "norm_key": "norm1",
            "norm_query": "norm2",
            "conv_norm": "short_conv.norms",
        }.items():
            yield f"{prefix}{theirs}.{i}.weight", tensors[name].part(i, (hidden,))


def _deepseek_v41(
    config: EngramConfig, layer: LayerAddresses, tensors: Mapping[str, StoredTensor]
) -> Iterator[Named]:
    prefix = f"layers.{layer.layer_id}.engram."
    yield prefix + "embed.weight", tensors[TABLE]
    for name in ("wkv.weight", "q_weight", "k_weight"):
        yield prefix + name, tensors[name]


def _qwen_ple(
    config: EngramConfig, layer: LayerAddresses, tensors: Mapping[str, StoredTensor]
) -> Iterator[Named]:
    prefix = f"model.language_model.layers.{layer.layer_id}.ple."
    table, shards = tensors[TABLE], config.row_multiple
    rows = table.rows // shards
    for i in range(shards):
        name = f"{prefix}ple_embedding.ngram_embedding.shard_{i}.weight"
        yield name, table.part(i * rows, (rows, table.width))
    for name, values in {
        "layer_multipliers": layer.multipliers,
        "ngram_heads_vocab_sizes": layer.heads,
        "ngram_heads_offsets": layer.offsets,
    }.items():
        yield f"{prefix}ple_embedding.{name}", np.array(values, dtype="<i8")
    for name, tensor in tensors.items():
        if name != TABLE:
            yield prefix + name, tensor


def published_config(
    config: EngramConfig, rows: list[int], vocab_size: int, pad_id: int
) -> dict[str, Any]:
    """Write the settings of a memory as the layout's own config.json states them.

    Args:
        config: The memory.
        rows: Rows of each layer's table, in the order of its layers.
        vocab_size: Size of the vocabulary that is hashed.
        pad_id: Token id of the pad; of no use to layouts that hash raw ids.
    """
    if config.layout == "deepseek_v41":
        return {
            "model_type": "deepseek_v41_text",
            "hidden_size": config.hidden_size,
            "hc_mult": config.hc_mult,
            "rms_norm_eps": config.eps,
            "vocab_size": config.engram_vocab_size,
            "engram_layer_ids": config.layer_ids,
            "engram_num_embeddings": rows,
            "engram_max_ngram_size": config.max_ngram_size,
            "engram_vocab_size": config.rows_per_head[0],
            "engram_n_heads": config.n_head_per_ngram,
            "engram_head_dim": config.row_width,
            "engram_pad_token_id": pad_id,
            "engram_compressed_vocab_size": vocab_size,
        }
    if config.layout == "qwen_ple":
        return {
            "model_type": "qwen4_exp_text",
            "hidden_size": config.hidden_size,
            "hc_count": config.hc_mult,
            "rms_norm_eps": config.eps,
            "vocab_size": config.engram_vocab_size,
            "eos_token_id": config.eos_id,
            "ple_layer_ids": [layer_id + 1 for layer_id in config.layer_ids],
            "ple_embed_dim": config.memory_width,
            "ple_conv_kernel_size": config.kernel_size,
            "ngram_size": config.max_ngram_size,
            "heads_per_ngram": config.n_head_per_ngram,
            "ngram_vocab_size_base": config.rows_per_head[0],
            "make_ngram_vocab_size_divisible_by": config.row_multiple,
            "split_ngram_parts": config.row_multiple,
            "seed": config.seed,
        }
    return {}  # the demo has no file for its settings
