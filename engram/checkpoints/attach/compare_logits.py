"""Compares the logits of a base and of the checkpoint that a memory was attached to."""

from __future__ import annotations

from pathlib import Path

from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.errors import LayoutError

_TOKENS = 32


def max_logit_difference(base: Path, attached: Path, trust_remote_code: bool = False) -> float:
    """Run random tokens through both models.

    Args:
        base: Folder of the base checkpoint.
        attached: Folder with the memory.
        trust_remote_code: Whether code in the folders may run.

    Returns:
        The largest difference between their logits; 0.0 when they are equal bit for bit.

    Raises:
        LayoutError: transformers cannot load or run the base alone, or its logits are not finite.
    """
    import torch
    import transformers

    from engram.checkpoints.read.load_checkpoint import load
    from engram.hf.admission import of_the_base
    from engram.hf.multimodal import auto_class_of

    opened = open_checkpoint(attached)
    known = opened.addresses.raw_vocab_size
    auto_class = getattr(transformers, auto_class_of((opened.stated or {})["base"]))
    with torch.no_grad():
        with of_the_base(base, "run"):
            model = auto_class.from_pretrained(
                base, dtype="auto", trust_remote_code=trust_remote_code
            ).eval()
            # A padded vocabulary is larger than what tokenizer and memory know.
            vocab_size = min(known, model.config.get_text_config().vocab_size)
            generator = torch.Generator().manual_seed(0)
            ids = torch.randint(0, vocab_size, (2, _TOKENS), generator=generator)
            expected = model(input_ids=ids).logits
        del model
        if not bool(torch.isfinite(expected).all()):
            raise LayoutError(
                f"{base}: the base's own logits are NaN or infinite, whatever a memory adds.",
                "Download or save the base again.",
                path=str(base),
            )
        own = load(attached, trust_remote_code=trust_remote_code).eval()(input_ids=ids).logits
    return float((own - expected).abs().max())
