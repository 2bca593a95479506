"""Ways of running a language model, each beside the plain one that it has to equal.

Shapes: B sequences, T tokens, V vocabulary, S steps of generating.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch  # noqa: TID253 - this module is itself imported only when needed
from torch import Tensor  # noqa: TID253

from engram.hf import compat

_GENERATE = {
    "max_new_tokens": 8,
    "do_sample": False,
    "eos_token_id": None,
    "pad_token_id": 0,
    "return_dict_in_generate": True,
    "output_logits": True,
}


@dataclass(frozen=True)
class Run:
    """Logits and past of a model after a run.

    Attributes:
        logits: Of every token that was read, or step that was generated ``[B, T or S, V]``.
        tokens: What was generated ``[B, S]``; None where nothing was.
    """

    logits: Tensor
    tokens: Tensor | None = None

    def row(self, index: int) -> Run:
        """One sequence of the batch."""
        rows = slice(index, index + 1)
        return Run(self.logits[rows], None if self.tokens is None else self.tokens[rows])


# A way of running, and the plain one.
Pair = tuple[Run, Run]


def plain(model: Any, ids: Tensor, **kwargs: Any) -> Run:
    """Run token ids ``[B, T]`` at once, without a cache."""
    return Run(model(input_ids=ids, use_cache=False, **kwargs).logits.float())


def continued(model: Any, ids: Tensor, past: Any, **kwargs: Any) -> tuple[Run, Any]:
    """Run token ids ``[B, T]`` after a cache, or after nothing; return the cache, too."""
    name: Any = compat.cache_name(model.forward)
    out = model(input_ids=ids, use_cache=True, **{name: past}, **kwargs)
    return Run(out.logits.float()), compat.cache_of(out)


def in_pieces(model: Any, pieces: Sequence[Tensor], **first: Any) -> Run:
    """Run token ids piece by piece; further arguments are those of the first piece."""
    past, logits = None, []
    for piece in pieces:
        run, past = continued(model, piece, past, **first)
        logits.append(run.logits)
        first = {}
    return Run(torch.cat(logits, dim=1))


def _in_pieces(sizes: int | list[int], model: Any, ids: Tensor) -> list[Pair]:
    """Read pieces of a size, or of some sizes and the rest at once."""
    if not isinstance(sizes, int):
        sizes = [*sizes, ids.shape[1] - sum(sizes)]
    return [(in_pieces(model, torch.split(ids, sizes, dim=1)), plain(model, ids))]


def _padded(model: Any, ids: Tensor) -> list[Pair]:
    """Run the row after five masked tokens, beside another row."""
    pads = 5
    row = torch.cat([ids[:, :pads], ids], dim=1)
    mask = torch.ones_like(row).repeat(2, 1)
    mask[0, :pads] = 0
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
    out = plain(model, row.repeat(2, 1), attention_mask=mask, position_ids=positions)
    return [(Run(out.logits[:1, pads:]), plain(model, ids))]


def _cropped(model: Any, ids: Tensor) -> list[Pair]:
    """Read a text, forget the end of it, and read another one."""
    from transformers import DynamicCache

    past = DynamicCache(config=model.config)
    compat.remember_past(past)
    continued(model, torch.cat([ids[:, :9], ids[:, :6]], dim=1), past)
    past.crop(-6)
    run, _ = continued(model, ids[:, 9:], past)
    return [(run, Run(plain(model, ids).logits[:, 9:]))]


def generated(model: Any, ids: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Run:
    """Generate after token ids ``[B, T]``."""
    mask = torch.ones_like(ids) if mask is None else mask
    out = model.generate(ids, attention_mask=mask, **{**_GENERATE, **kwargs})
    tokens = out.sequences[:, ids.shape[1] :]
    # Assisted decoding also returns the logits of what it read ahead.
    return Run(torch.stack(out.logits, dim=1).float()[:, : tokens.shape[1]], tokens)


def uncached(model: Any, ids: Tensor, **kwargs: Any) -> list[Pair]:
    """Generate after token ids ``[B, T]``, with a cache and without one."""
    runs = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        runs.append(generated(model, ids, use_cache=use_cache, **kwargs))
    return [(runs[0], runs[1])]


def _prompt_lookup(model: Any, ids: Tensor) -> list[Pair]:
    # A text that repeats itself gives candidates; most are rejected and cropped away again.
    twice = torch.cat([ids, ids[:, :-2]], dim=1)
    return [(generated(model, twice, prompt_lookup_num_tokens=4), generated(model, twice))]


def _assisted(model: Any, ids: Tensor) -> list[Pair]:
    """The base proposes; the memory, being random, has many of its tokens rejected."""
    from engram.hf.unwired import base_of

    return [(generated(model, ids, assistant_model=base_of(model)), generated(model, ids))]


def _static(model: Any, ids: Tensor) -> list[Pair]:
    return [(generated(model, ids, **_STATIC), generated(model, ids))]


def _uneven(model: Any, ids: Tensor, **kwargs: Any) -> list[Pair]:
    """Generate for a short and a long row in one batch, and for each alone."""
    short, pads = ids[:, :9], ids.shape[1] - 9
    batch = torch.cat([torch.cat([ids[:, :pads], short], dim=1), ids])
    mask = torch.ones_like(batch)
    mask[0, :pads] = 0
    together = generated(model, batch, mask, **kwargs)
    return [(together.row(0), generated(model, short)), (together.row(1), generated(model, ids))]


def _threads(model: Any, ids: Tensor) -> list[Pair]:
    texts = [ids, ids.flip(1)]
    with ThreadPoolExecutor(len(texts)) as pool:
        together = list(pool.map(partial(generated, model), texts))
    return [(run, generated(model, text)) for run, text in zip(together, texts, strict=True)]


_STATIC: dict[str, Any] = {"cache_implementation": "static", "disable_compile": True}

# Takes a model and token ids [1, T].
Way = Callable[[Any, Tensor], list[Pair]]
READING: dict[str, Way] = {
    "cached = full": partial(_in_pieces, 1),
    "chunked = full": partial(_in_pieces, [7, 1, 5]),
    "padded = full": _padded,
    "crop and go on": _cropped,
}
GENERATING: dict[str, Way] = {
    "greedy": uncached,
    "uneven batch": _uneven,
    "beam search": partial(uncached, num_beams=4),
    "assisted": _assisted,
    "prompt lookup": _prompt_lookup,
    "static cache": _static,
    "static, padded": partial(_uneven, **_STATIC),
    "sampling": partial(uncached, do_sample=True, top_k=20),
    "two threads": _threads,
}
