"""Counts parameters from stored tensors, for families without a closed form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.backbone.counting import Counts
from engram.errors import LayoutError
from engram.storage.stored import read_folder_headers
from engram.tensor_names import is_memory

PACKED_DTYPES = ("I8", "U8", "I32")  # several quantised weights per value, or their codes


def count_folder(folder: Path, config: Mapping[str, Any]) -> Counts | None:
    """Count a folder's stored parameters: the floating-point tensors in its headers.

    Rotary frequencies, a second copy of a tied head, and an attached memory are left out.

    Args:
        folder: A Hugging Face folder.
        config: Its config under canonical names.

    Returns:
        The counts; None if there are no safetensors weights.

    Raises:
        CorruptFileError: A file is torn or inconsistent.
        MissingFileError: A shard is missing.
        LayoutError: The weights are packed into integers, or experts cannot be counted.
    """
    headers = read_folder_headers(folder)
    if headers is None:
        return None
    packed = any(tensor.dtype in PACKED_DTYPES for tensor in headers.values())
    if packed and config.get("quantization_config"):
        raise LayoutError(
            f"{folder}: its weights are packed into integers, so headers do not show their number.",
            "Give the model from which it was quantised.",
        )
    sizes = {
        name: tensor.size for name, tensor in headers.items() if _counts(name, tensor.dtype, config)
    }
    params, vocabulary = sum(sizes.values()), (config["vocab_size"], config["hidden_size"])
    return Counts(
        params=params,
        embedding_params=sum(sizes[name] for name in sizes if headers[name].shape == vocabulary),
        active_params=params - _idle_experts(folder, sizes, config),
    )


def _counts(name: str, dtype: str, config: Mapping[str, Any]) -> bool:
    left_out = is_memory(name) or name.endswith("rotary_emb.inv_freq")
    second_head = config.get("tie_word_embeddings") is True and name.endswith("lm_head.weight")
    return dtype.startswith(("F", "BF")) and not left_out and not second_head


def _idle_experts(folder: Path, sizes: Mapping[str, int], config: Mapping[str, Any]) -> int:
    """Count the parameters of the routed experts that a token is not sent to."""
    routed = sum(size for name, size in sizes.items() if ".experts." in name)
    if not routed:
        return 0
    experts, used = config.get("num_experts"), config.get("num_experts_per_tok")
    if not (isinstance(experts, int) and isinstance(used, int) and 0 < used <= experts):
        raise LayoutError(
            f"{folder} has routed experts, but its config does not state how many a token uses.",
            "State num_experts and num_experts_per_tok in config.json.",
            num_experts=experts,
            num_experts_per_tok=used,
        )
    return routed // experts * (experts - used)
