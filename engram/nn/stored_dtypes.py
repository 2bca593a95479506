"""torch's dtypes by their tags in safetensors headers, and back."""

import torch

from engram.storage.dtypes import DTYPES

TORCH_DTYPES: dict[str, torch.dtype] = {
    tag: getattr(torch, it.torch) for tag, it in DTYPES.items() if it.torch
}
TAGS = {dtype: tag for tag, dtype in TORCH_DTYPES.items()}
