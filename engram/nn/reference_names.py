"""Translates state dicts with published names: tensors renamed, joined and dequantised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engram.addressing.multipliers import multipliers
from engram.addressing.primes import head_primes
from engram.addressing.same_memory import check_constant
from engram.errors import MismatchError
from engram.layouts.tensors import CONSTANTS
from engram.nn.quantised import dequantise_fp8
from engram.nn.quantised_tables import QuantisedEmbedding
from engram.tensor_names import OFFSETS, TABLE

if TYPE_CHECKING:
    from engram.nn.module import EngramModule


def load_published(module: EngramModule, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Give the tensors of a published module our names and shapes, in place.

    Args:
        module: The module that is to load them.
        state: The state dict of the module or of the model around it.
        prefix: What names of this module start with.

    Raises:
        MismatchError: Stored constants are not those of the config, or scales are missing.
    """
    layout = module.layout
    pieces: dict[str, dict[int, str]] = {}
    for name in [name for name in state if name.startswith(prefix)]:
        slot = layout.read(name.removeprefix(prefix), inside=True)
        if slot is None or not slot.key.known or slot.side not in ("values", "scale"):
            continue
        ours = OFFSETS if slot.key.name == "offsets" else slot.key.name
        if ours in CONSTANTS:
            _check(module, ours, name, state.pop(name))
            continue
        if ours == TABLE and "offsets" not in layout.released.names:
            # The release derives them from the config, as this module did.
            state.setdefault(prefix + OFFSETS, module.multi_head_embedding.offsets)
        target = prefix + (ours.removesuffix("weight") + "scale" if slot.side == "scale" else ours)
        piece = slot.shard if slot.key.number is None else slot.key.number
        if piece is not None:
            pieces.setdefault(target, {})[piece] = name
        elif target != name:
            state[target] = state.pop(name)
    for target, names in pieces.items():
        _join(module, state, target, target.removeprefix(prefix), names)
    for tensor in layout.all_tensors.values():
        if tensor.block is not None:
            _dequantise(module, state, prefix + tensor.name, tensor.block[0])


def _join(
    module: EngramModule, state: dict[str, Tensor], target: str, ours: str, names: dict[int, str]
) -> None:
    """Join the pieces of a tensor. A gap is left alone: torch then names them as unexpected."""
    in_streams = any("{stream}" in d.names.get(ours, "") for d in module.layout.dialects)
    count = module.config.hc_mult if in_streams else len(names)
    if sorted(names) != list(range(count)):
        return
    parts = [state.pop(names[i]) for i in range(count)]
    tensor = module.layout.all_tensors.get(ours)
    stacked = tensor is not None and parts[0].ndim <= tensor.shape.count(",")
    state[target] = torch.stack(parts) if stacked else torch.cat(parts)


def _dequantise(
    module: EngramModule, state: dict[str, Tensor], name: str, rows_per_scale: int
) -> None:
    """Dequantise fp8 values that are not to stay quantised."""
    is_table = name.endswith(TABLE)
    if is_table and isinstance(module.multi_head_embedding.embedding, QuantisedEmbedding):
        return
    codes, scales = state.get(name), state.pop(name.removesuffix("weight") + "scale", None)
    if codes is None or codes.dtype != torch.float8_e4m3fn:
        return
    if scales is None:
        raise MismatchError(
            f"{name} is fp8, and its scales are missing.",
            "Load the tensor that ends with .scale with it.",
            tensor=name,
        )
    state[name] = dequantise_fp8(codes, scales, rows_per_scale=rows_per_scale)


def _check(module: EngramModule, constant: str, name: str, stored: Tensor) -> None:
    """Compare a stored constant with the module's own, where the module can know it."""
    is_sizes, layout = constant == "sizes", module.layout
    drawn_from_place = layout.hashes == "raw" and layout.multiplier_key == "index"
    if stored.is_meta or not (is_sizes or drawn_from_place):
        return
    expected = module.multi_head_embedding.head_sizes if is_sizes else _multipliers(module)
    check_constant(name, stored.tolist(), expected)


def _multipliers(module: EngramModule) -> tuple[int, ...]:
    """Derive the layer's hash multipliers; its primes tell its place among the layers."""
    config, first = module.config, module.multi_head_embedding.head_sizes[0]
    places = [0]
    while head_primes(config, places)[places[-1]][0][0] < first:
        places.append(len(places))
    return multipliers(config, config.engram_vocab_size, places)[places[-1]]
