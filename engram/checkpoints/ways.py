"""Ways of running a language model that have to give what the plain one gives.

Shapes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch  # noqa: TID253 - this module is itself imported only when needed

_GENERATE = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def logits_of(model: Any, ids: Any, **kwargs: Any) -> Any:
    """Run token ids ``[B, T]`` at once, without a cache; logits ``[B, T, V]``."""
    return model(input_ids=ids, use_cache=False, **kwargs).logits.float()


def _in_pieces(model: Any, ids: Any, pieces: list[int]) -> Any:
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
    pads = 5
    row = torch.cat([ids[:, :pads], ids], dim=1)
    mask = torch.ones_like(row).repeat(2, 1)
    mask[0, :pads] = 0
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
    logits = logits_of(model, row.repeat(2, 1), attention_mask=mask, position_ids=positions)
    return logits[:1, pads:]


def _generate(model: Any, ids: Any, **kwargs: Any) -> Any:
    return model.generate(ids, attention_mask=torch.ones_like(ids), **{**_GENERATE, **kwargs})


def _greedy(model: Any, ids: Any) -> bool:
    return torch.equal(_generate(model, ids), _generate(model, ids, use_cache=False))


def _beams(model: Any, ids: Any) -> bool:
    cached = _generate(model, ids, num_beams=4)
    return torch.equal(cached, _generate(model, ids, num_beams=4, use_cache=False))


def _prompt_lookup(model: Any, ids: Any) -> bool:
    # A text that repeats itself gives candidates; most are rejected and cropped away again.
    twice = torch.cat([ids, ids[:, :-2]], dim=1)
    return torch.equal(_generate(model, twice, prompt_lookup_num_tokens=4), _generate(model, twice))


def _assisted(model: Any, ids: Any) -> bool:
    """The base proposes; the memory, being random, has many of its tokens rejected."""
    from engram.hf.unwired import base_of

    return torch.equal(_generate(model, ids, assistant_model=base_of(model)), _generate(model, ids))


def _static(model: Any, ids: Any) -> bool:
    cached = _generate(model, ids, cache_implementation="static", disable_compile=True)
    return torch.equal(cached, _generate(model, ids))


def _static_uneven(model: Any, ids: Any) -> bool:
    return _uneven(model, ids, cache_implementation="static", disable_compile=True)


def _uneven(model: Any, ids: Any, **kwargs: Any) -> bool:
    """Generate for a short and a long row in one batch, and for each alone."""
    short, pads = ids[:, :9], ids.shape[1] - 9
    batch = torch.cat([torch.cat([ids[:, :pads], short], dim=1), ids])
    mask = torch.ones_like(batch)
    mask[0, :pads] = 0
    together = model.generate(batch, attention_mask=mask, **{**_GENERATE, **kwargs})
    return torch.equal(together[:1, pads:], _generate(model, short)) and torch.equal(
        together[1:], _generate(model, ids)
    )


def _sampled(model: Any, ids: Any) -> bool:
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        texts.append(_generate(model, ids, do_sample=True, top_k=20, use_cache=use_cache))
    return torch.equal(*texts)


def _cropped(model: Any, ids: Any) -> bool:
    """Read a text, forget the end of it, and go on with another one."""
    from transformers import DynamicCache

    past = DynamicCache(config=model.config)
    past.activate_past_recording()
    model(input_ids=torch.cat([ids[:, :9], ids[:, :6]], dim=1), past_key_values=past)
    past.crop(-6)
    tokens = model(input_ids=ids[:, 9:], past_key_values=past).logits.argmax(-1)
    return torch.equal(tokens, logits_of(model, ids)[:, 9:].argmax(-1))


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
        index in found and torch.equal(found[index], _generate(model, text))
        for index, text in enumerate(texts)
    )


# Logits [1, T, V] that have to be those of `logits_of`.
SAME_LOGITS: dict[str, Callable[[Any, Any], Any]] = {
    "cached = full": _cached,
    "chunked = full": _chunked,
    "padded = full": _padded,
}
# Whether two ways of generating give the same tokens.
SAME_TOKENS: dict[str, Callable[[Any, Any], bool]] = {
    "greedy": _greedy,
    "beam search": _beams,
    "prompt lookup": _prompt_lookup,
    "assisted": _assisted,
    "static cache": _static,
    "static, padded": _static_uneven,
    "uneven batch": _uneven,
    "sampling": _sampled,
    "crop and go on": _cropped,
    "two threads": _threads,
}
