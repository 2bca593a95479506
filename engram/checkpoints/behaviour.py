"""Checks that need the weights: is every way of running the same, and does the memory count?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.errors import EngramError

if TYPE_CHECKING:
    from engram.checkpoints.verify import Check

# Largest difference of logits that counts as equal, as a share of the largest logit.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10, "bfloat16": 6e-2, "float16": 1e-2}
_TOKENS = 24


def behaviour_checks(folder: Path) -> Iterator[Check]:
    """Load an attached checkpoint and compare its ways of running.

    The checkpoint's own memory may be zero, which would hide every mistake; so the dense weights
    of the memory are first replaced, in RAM only, by random values.

    Args:
        folder: An attached checkpoint.

    Yields:
        A check at a time.
    """
    import torch

    from engram.checkpoints.verify import Check
    from engram.hf.load import load

    try:
        model = load(folder)
    except (EngramError, OSError, ValueError, RuntimeError) as error:
        yield Check("load", False, str(error).splitlines()[0])
        return
    yield Check(
        "load", True, f"{type(model).__name__} in {str(model.dtype).removeprefix('torch.')}"
    )
    vocab = min(model.get_decoder().engram_ids.addresses.raw_vocab_size, model.config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab, (1, _TOKENS), generator=generator)
    with torch.no_grad():
        own = _logits(model, ids)
        finite = bool(torch.isfinite(own).all())
        yield Check(
            "finite", finite, "logits of random tokens are finite" if finite else "NaN or inf"
        )
        randomise(model, generator)
        full = _logits(model, ids)
        difference = float((full - own).abs().max())
        yield Check(
            "memory responds",
            difference > 0,
            f"other memory weights change the logits by up to {difference:.3g}",
        )
        scale = float(full.abs().max())
        bound = TOLERANCE[str(model.dtype).removeprefix("torch.")] * scale
        for name, way in _WAYS.items():
            difference = float((way(model, ids) - full).abs().max())
            detail = f"largest logit difference {difference:.3g}, allowed {bound:.3g}"
            yield Check(name, difference <= bound, detail)


def randomise(model: Any, generator: Any) -> None:
    """Give every dense weight of a model's memories random values, in place."""
    import torch

    for name, parameter in model.named_parameters():
        if ".engram." in name and "multi_head_embedding" not in name:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            scale = 0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(noise * scale)


def _logits(model: Any, ids: Any, **kwargs: Any) -> Any:
    return model(input_ids=ids, use_cache=False, **kwargs).logits.float()


def _cached(model: Any, ids: Any) -> Any:
    return _in_pieces(model, ids, [1] * ids.shape[1])


def _chunked(model: Any, ids: Any) -> Any:
    return _in_pieces(model, ids, [7, 1, 5, ids.shape[1] - 13])


def _in_pieces(model: Any, ids: Any, pieces: list[int]) -> Any:
    import torch

    past, logits, start = None, [], 0
    for piece in pieces:
        out = model(input_ids=ids[:, start : start + piece], past_key_values=past, use_cache=True)
        past, start = out.past_key_values, start + piece
        logits.append(out.logits.float())
    return torch.cat(logits, dim=1)


def _padded(model: Any, ids: Any) -> Any:
    """Run the row behind five masked tokens, beside another row."""
    import torch

    pads = 5
    row = torch.cat([ids[:, :pads], ids], dim=1)
    mask = torch.ones_like(row)
    mask[:, :pads] = 0
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
    batch, both = torch.cat([row, row]), torch.cat([mask, torch.ones_like(mask)])
    every = torch.arange(row.shape[1])[None]
    logits = _logits(model, batch, attention_mask=both, position_ids=torch.cat([positions, every]))
    return logits[:1, pads:]


_WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "cached = full": _cached,
    "chunked = full": _chunked,
    "padded = full": _padded,
}
