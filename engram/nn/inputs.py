"""Checks the inputs of a module, and brings them into one shape.

Shapes: B sequences, T tokens, M streams, D hidden size, C columns, L layers with a memory.
"""

import torch
from torch import Tensor, nn

from engram.errors import LayoutError


def as_streams(hidden_states: Tensor, n_streams: int, hidden_size: int) -> Tensor:
    """Return hidden states ``[B, T, M, D]``, or ``[B, T, D]`` of one stream, as ``[B, T, M, D]``.

    Raises:
        LayoutError: They have another shape.
    """
    one = n_streams == 1
    streams = hidden_states[:, :, None] if one and hidden_states.ndim == 3 else hidden_states
    if streams.ndim != 4 or streams.shape[2:] != (n_streams, hidden_size):
        also = f" or [B, T, {hidden_size}]" if one else ""
        raise LayoutError(
            f"Hidden states must have the shape [B, T, {n_streams}, {hidden_size}]{also}, got "
            f"{list(hidden_states.shape)}.",
            "hc_mult is the backbone's number of residual streams, hidden_size their width.",
            shape=list(hidden_states.shape),
        )
    return streams


def ids_of_layer(hash_ids: Tensor, slot: int | None, positions: torch.Size) -> Tensor:
    """Return one layer's hash ids ``[B, T, C]``.

    Args:
        hash_ids: Those ids, or the ids of all layers ``[B, T, L, C]``.
        slot: The layer's index on the L axis; None if unknown.
        positions: B and T.

    Raises:
        LayoutError: They are for other tokens, or for several layers while the layer's index is
            unknown or not among them.
    """
    if hash_ids.ndim == 4:
        if slot is None:
            raise LayoutError(
                "Hash ids of several layers were given to a module built from a plain list of "
                "primes, which has no layer index.",
                "Build it from vocab_distributions[layer_id], or hash with layer_id=.",
                shape=list(hash_ids.shape),
            )
        if hash_ids.shape[2] <= slot:
            raise LayoutError(
                f"Hash ids are for {hash_ids.shape[2]} layers; this one is number {slot + 1} among "
                "its tokenizer's.",
                "Hash with the tokenizer from which the module was built.",
                shape=list(hash_ids.shape),
                slot=slot,
            )
        hash_ids = hash_ids[:, :, slot]
    if hash_ids.ndim != 3 or hash_ids.shape[:2] != positions:
        raise _other_tokens("hash_ids", hash_ids, positions)
    return hash_ids


def as_mask(keep: Tensor, positions: torch.Size) -> Tensor:
    """Return a mask ``[B, T]`` as bool; integers are True where they are not 0.

    Raises:
        LayoutError: It is for other tokens.
    """
    if keep.shape != positions:
        raise _other_tokens("keep", keep, positions)
    return keep.to(torch.bool)


def for_projection(memory: Tensor, projection: nn.Module, dtype: torch.dtype) -> Tensor:
    """Cast the memory ``[..., E]`` to the dtype that a projection takes.

    Args:
        memory: The memory, of the table's dtype.
        projection: A linear module, or a replacement of it (quantised, with LoRA).
        dtype: dtype of the other weights, which quantised projections take.
    """
    weight = getattr(projection, "weight", None)
    if isinstance(weight, Tensor) and weight.is_floating_point() and weight.itemsize > 1:
        dtype = weight.dtype
    return memory.to(dtype)


def _other_tokens(name: str, tensor: Tensor, positions: torch.Size) -> LayoutError:
    return LayoutError(
        f"{name} is {list(tensor.shape)}; the hidden states are {positions[0]} sequences of "
        f"{positions[1]} tokens.",
        f"Give {name} for the same tokens.",
        shape=list(tensor.shape),
    )
