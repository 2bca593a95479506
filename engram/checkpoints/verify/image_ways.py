"""Ways of running a multimodal model on a text with an image, each beside the plain one.

Shapes: B sequences, T tokens, I tokens of the image.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch  # noqa: TID253 - this module is itself imported only when needed
from torch import Tensor  # noqa: TID253

from engram.checkpoints.verify.images import ImagePrompt, image_prompt
from engram.checkpoints.verify.ways import Pair, Run, Way, continued, generated, plain, uncached

_PADS = 3


def _prompt(model: Any, ids: Tensor, read_first: int = 4) -> tuple[ImagePrompt, Tensor]:
    """Put an image into a text ``[1, T]``; return a few tokens after it with it, and the others."""
    start = ids.shape[1] // 2
    prompt = image_prompt(model, ids[:, :start], ids[:, start : start + read_first])
    return prompt, ids[:, start + read_first :]


def _whole(model: Any, ids: Tensor) -> tuple[ImagePrompt, Run]:
    prompt, _ = _prompt(model, ids, ids.shape[1])
    return prompt, plain(model, prompt.ids, **prompt.arguments())


def _token_by_token(model: Any, ids: Tensor) -> list[Pair]:
    """Read the image and a few tokens at once, the others one by one."""
    prompt, rest = _prompt(model, ids)
    run, past = continued(model, prompt.ids, None, **prompt.arguments())
    logits = [run.logits]
    for token in torch.split(rest, 1, dim=1):
        run, past = continued(model, token, past)
        logits.append(run.logits)
    return [(Run(torch.cat(logits, dim=1)), _whole(model, ids)[1])]


def _padded(model: Any, ids: Tensor) -> list[Pair]:
    """Run the text after masked tokens, beside itself."""
    prompt, expected = _whole(model, ids)
    row = torch.nn.functional.pad(prompt.ids, (_PADS, 0)).repeat(2, 1)
    mask = (torch.arange(row.shape[1]) >= _PADS).long().repeat(2, 1)
    out = plain(model, row, attention_mask=mask, **prompt.arguments(_PADS, rows=2))
    return [(Run(out.logits[:1, _PADS:]), expected)]


def _not_read(model: Any, ids: Tensor) -> list[Pair]:
    """Hide the image's tokens from the memory by hand: it has not read them anyway."""
    prompt, expected = _whole(model, ids)
    hidden = plain(model, prompt.ids, engram_mask=prompt.text.long(), **prompt.arguments())
    return [(hidden, expected)]


def _generated(model: Any, ids: Tensor, **kwargs: Any) -> list[Pair]:
    prompt, _ = _prompt(model, ids)
    return uncached(model, prompt.ids, **prompt.arguments(), **kwargs)


def _uneven(model: Any, ids: Tensor) -> list[Pair]:
    """Generate for a padded row in a batch, and for it alone."""
    prompt, _ = _prompt(model, ids)
    row = torch.nn.functional.pad(prompt.ids, (_PADS, 0)).repeat(2, 1)
    mask = (torch.arange(row.shape[1]) >= _PADS).long().repeat(2, 1)
    together = generated(model, row, mask, **prompt.arguments(_PADS, rows=2))
    return [(together.row(0), generated(model, prompt.ids, **prompt.arguments()))]


IMAGE_READING: dict[str, Way] = {
    "image, cached = full": _token_by_token,
    "image, padded = full": _padded,
    "image is not read": _not_read,
}
IMAGE_GENERATING: dict[str, Way] = {
    "image, greedy": _generated,
    "image, beam search": partial(_generated, num_beams=3),
    "image, uneven batch": _uneven,
}
