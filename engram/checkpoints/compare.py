"""Compares the logits of a base and of the checkpoint that a memory was attached to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engram.checkpoints.base import read_config

_TOKENS = 32


def max_logit_difference(base: Path, attached: Path, trust_remote_code: bool = False) -> float:
    """Run random tokens through both models.

    Args:
        base: Folder of the base checkpoint.
        attached: Folder with the memory.
        trust_remote_code: Whether code in the folders may run.

    Returns:
        The largest difference between their logits; 0.0 when they are equal bit for bit.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from engram.checkpoints.load import load

    # A padded vocabulary is larger than what tokenizer and memory know.
    settings = read_config(attached)
    text = settings.get("text_config", settings)
    vocab_size = min(settings["engram"]["addresses"]["raw_vocab_size"], text["vocab_size"])
    logits = []
    makers: tuple[Callable[[], Any], ...] = (
        lambda: AutoModelForCausalLM.from_pretrained(
            base, dtype="auto", trust_remote_code=trust_remote_code
        ),
        lambda: load(attached, trust_remote_code=trust_remote_code),
    )
    for make in makers:
        model = make().eval()
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, vocab_size, (2, _TOKENS), generator=generator)
        with torch.no_grad():
            logits.append(model(input_ids=ids).logits)
        del model
    return float((logits[0] - logits[1]).abs().max())
