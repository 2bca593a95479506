"""Checks that need the weights: is every way of running the same, and does the memory count?"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.checkpoints.base import weight_bytes
from engram.errors import EngramError
from engram.units import format_bytes

if TYPE_CHECKING:
    from engram.checkpoints.checks import Check

# Largest difference of logits that counts as equal, as a share of the largest logit.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10, "bfloat16": 6e-2, "float16": 1e-2}
_TOKENS = 24
_GENERATE = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def behaviour_checks(folder: Path) -> Iterator[Check]:
    """Load an attached checkpoint and compare its ways of running.

    The checkpoint's own memory may be zero, which would hide every mistake; so the dense weights
    of the memory are first replaced, in RAM only, by random values. Where RAM allows it the model
    is loaded in float32, so that a difference is a mistake and not rounding.

    Args:
        folder: An attached checkpoint.

    Yields:
        A check at a time.
    """
    import torch

    from engram.checkpoints.checks import Check

    try:
        model, why_not = _load(folder)
    except (EngramError, OSError, ValueError, RuntimeError) as error:
        yield Check("load", False, str(error).splitlines()[0])
        return
    if model is None:
        yield Check("load", None, why_not)
        return
    dtype = str(model.dtype).removeprefix("torch.")
    yield Check("load", True, f"{type(model).__name__} in {dtype}")
    vocab = min(model.get_decoder().engram_ids.addresses.raw_vocab_size, model.config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab, (1, _TOKENS), generator=generator)
    with torch.no_grad():
        own = _logits(model, ids)
        finite = bool(torch.isfinite(own).all())
        yield Check(
            "finite", finite, "logits are finite" if finite else "logits are NaN or infinite"
        )
        randomise(model, generator)
        full = _logits(model, ids)
        difference = float((full - own).abs().max())
        detail = f"other memory weights change the logits by up to {difference:.3g}"
        yield Check("memory responds", difference > 0, detail)
        bound = TOLERANCE[dtype] * float(full.abs().max())
        for name, way in _SAME_LOGITS.items():
            try:
                difference = float((way(model, ids) - full).abs().max())
            except (EngramError, RuntimeError, ValueError, AttributeError) as error:
                yield Check(name, False, f"it fails: {str(error).splitlines()[0]}")
                continue
            detail = f"largest logit difference {difference:.3g}, allowed {bound:.3g}"
            yield Check(name, difference <= bound, detail)
        for name, same in _SAME_TOKENS.items():
            if dtype not in ("float32", "float64"):
                yield Check(name, None, f"not checked in {dtype}: rounding alone changes tokens")
            else:
                yield _tokens_check(name, same, model, ids)


def _load(folder: Path) -> tuple[Any, str]:
    """Return the model, in float32 if it fits; None and the reason when it does not fit at all."""
    import torch

    from engram.checkpoints.load import load

    stored_bytes = weight_bytes(folder)
    free_bytes = _available_bytes()
    if stored_bytes > free_bytes:
        free, needed = format_bytes(free_bytes), format_bytes(stored_bytes)
        return None, f"not checked: the weights take {needed}, {free} of RAM are free"
    # Half-precision weights double.
    fits_wide = 2 * stored_bytes < free_bytes
    return load(folder, dtype=torch.float32 if fits_wide else "auto"), ""


def _available_bytes() -> int:
    """RAM that programs can have, the system's file cache included where it says so."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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


def _in_pieces(model: Any, ids: Any, pieces: list[int]) -> Any:
    import torch

    past, logits, start = None, [], 0
    for piece in pieces:
        out = model(input_ids=ids[:, start : start + piece], past_key_values=past, use_cache=True)
        past, start = out.past_key_values, start + piece
        logits.append(out.logits.float())
    return torch.cat(logits, dim=1)


def _cached(model: Any, ids: Any) -> Any:
    return _in_pieces(model, ids, [1] * ids.shape[1])


def _chunked(model: Any, ids: Any) -> Any:
    return _in_pieces(model, ids, [7, 1, 5, ids.shape[1] - 13])


def _padded(model: Any, ids: Any) -> Any:
    """Run the row behind five masked tokens, beside another row."""
    import torch

    pads = 5
    row = torch.cat([ids[:, :pads], ids], dim=1)
    mask = torch.ones_like(row).repeat(2, 1)
    mask[0, :pads] = 0
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
    logits = _logits(model, row.repeat(2, 1), attention_mask=mask, position_ids=positions)
    return logits[:1, pads:]


_SAME_LOGITS: dict[str, Callable[[Any, Any], Any]] = {
    "cached = full": _cached,
    "chunked = full": _chunked,
    "padded = full": _padded,
}


def _tokens_check(name: str, same: Callable[[Any, Any], bool], model: Any, ids: Any) -> Check:
    from engram.checkpoints.checks import Check

    try:
        ok = same(model, ids)
    except (ValueError, KeyError, NotImplementedError, AttributeError) as error:
        return Check(name, None, f"transformers cannot do it: {str(error).splitlines()[0]}")
    except (EngramError, RuntimeError) as error:
        return Check(name, False, f"it fails: {str(error).splitlines()[0]}")
    return Check(name, ok, "the same tokens" if ok else "other tokens than without a cache")


def _generate(model: Any, ids: Any, **kwargs: Any) -> Any:
    import torch

    return model.generate(ids, attention_mask=torch.ones_like(ids), **{**_GENERATE, **kwargs})


def _greedy(model: Any, ids: Any) -> bool:
    return _equal(_generate(model, ids), _generate(model, ids, use_cache=False))


def _beams(model: Any, ids: Any) -> bool:
    cached = _generate(model, ids, num_beams=4)
    return _equal(cached, _generate(model, ids, num_beams=4, use_cache=False))


def _prompt_lookup(model: Any, ids: Any) -> bool:
    import torch

    # A text that repeats itself gives candidates; most are rejected and cropped away again.
    twice = torch.cat([ids, ids[:, :-2]], dim=1)
    return _equal(_generate(model, twice, prompt_lookup_num_tokens=4), _generate(model, twice))


def _sampled(model: Any, ids: Any) -> bool:
    import torch

    texts = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        texts.append(_generate(model, ids, do_sample=True, top_k=20, use_cache=use_cache))
    return _equal(*texts)


def _uneven(model: Any, ids: Any, **kwargs: Any) -> bool:
    """Generate for a short and a long row in one batch, and for each alone."""
    import torch

    short, pads = ids[:, :9], ids.shape[1] - 9
    batch = torch.cat([torch.cat([ids[:, :pads], short], dim=1), ids])
    mask = torch.ones_like(batch)
    mask[0, :pads] = 0
    together = model.generate(batch, attention_mask=mask, **{**_GENERATE, **kwargs})
    return _equal(together[:1, pads:], _generate(model, short)) and _equal(
        together[1:], _generate(model, ids)
    )


def _static_uneven(model: Any, ids: Any) -> bool:
    return _uneven(model, ids, cache_implementation="static", disable_compile=True)


def _cropped(model: Any, ids: Any) -> bool:
    """Read a text, forget the end of it, and go on with another one."""
    import torch
    from transformers import DynamicCache

    past = DynamicCache(config=model.config)
    past.activate_past_recording()
    model(input_ids=torch.cat([ids[:, :9], ids[:, :6]], dim=1), past_key_values=past)
    past.crop(-6)
    try:
        tokens = model(input_ids=ids[:, 9:], past_key_values=past).logits.argmax(-1)
    except RuntimeError as error:  # some caches keep what they cannot crop
        raise ValueError("the base's cache cannot be cropped") from error
    return _equal(tokens, _logits(model, ids)[:, 9:].argmax(-1))


def _static(model: Any, ids: Any) -> bool:
    cached = _generate(model, ids, cache_implementation="static", disable_compile=True)
    return _equal(cached, _generate(model, ids))


def _threads(model: Any, ids: Any) -> bool:
    texts = [ids, ids.flip(1)]
    found: dict[int, Any] = {}

    def work(index: int) -> None:
        found[index] = _generate(model, texts[index])

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(texts))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return all(
        index in found and _equal(found[index], _generate(model, text))
        for index, text in enumerate(texts)
    )


def _equal(one: Any, other: Any) -> bool:
    import torch

    return torch.equal(one, other)


_SAME_TOKENS: dict[str, Callable[[Any, Any], bool]] = {
    "greedy": _greedy,
    "beam search": _beams,
    "prompt lookup": _prompt_lookup,
    "static cache": _static,
    "static, padded": _static_uneven,
    "uneven batch": _uneven,
    "sampling": _sampled,
    "crop and go on": _cropped,
    "two threads": _threads,
}
