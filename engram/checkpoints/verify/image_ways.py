"""Ways of running a multimodal model on a text with an image, each beside the plain one.

The image is random, and made from the model's config without its processor.

Shapes: B sequences, T tokens, I tokens of the image.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch  # noqa: TID253 - this module is itself imported only when needed
from torch import Tensor  # noqa: TID253

from engram.backbone.families import ATTACHED_PREFIX
from engram.checkpoints.verify.ways import Pair, Run, Way, generated, in_pieces, plain, uncached

_PADS = 3


@dataclass(frozen=True)
class ImagePrompt:
    """A prompt of text, an image, and text.

    Attributes:
        ids: Token ids ``[1, T]``.
        text: False at the image's tokens ``[1, T]``.
        image: The image, as keyword arguments of the model.
        token_types: Name of the argument that tells the kinds of tokens apart; empty where the
            model takes none.
    """

    ids: Tensor
    text: Tensor
    image: Mapping[str, Tensor]
    token_types: str

    def arguments(self, pads: int = 0, rows: int = 1) -> dict[str, Any]:
        """Keyword arguments beside the ids, of some equal rows with padding before them."""
        found = dict(self.image)
        if self.token_types:
            found[self.token_types] = torch.nn.functional.pad((~self.text).long(), (pads, 0))
        return {name: torch.cat([value] * rows) for name, value in found.items()}


def image_prompt(model: Any, before: Tensor, after: Tensor) -> ImagePrompt:
    """Put an image of random values between two texts.

    Args:
        model: A multimodal model.
        before: Token ids of a text ``[1, T]``.
        after: Token ids of another one ``[1, T]``.
    """
    config, generator = model.config, torch.Generator().manual_seed(0)
    made = _IMAGES[config.model_type.removeprefix(ATTACHED_PREFIX)](config)
    image = {
        name: torch.rand(value, generator=generator) if isinstance(value, tuple) else value
        for name, value in made.items()
    }
    features = model.get_image_features(**image).pooler_output
    length = sum(part.numel() // part.shape[-1] for part in features)
    ids = torch.cat([before, torch.full((1, length), config.image_token_id), after], dim=1)
    taken = inspect.signature(model.forward).parameters
    types = next((name for name in ("mm_token_type_ids", "token_type_ids") if name in taken), "")
    return ImagePrompt(ids, ids != config.image_token_id, image, types)


def _square(config: Any) -> dict[str, Any]:
    """One image of the size that the encoder is for."""
    size = config.vision_config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return {"pixel_values": (1, 3, height, width)}


def _with_size(config: Any) -> dict[str, Any]:
    """One image of any size: two patches, after merging, by three."""
    side = config.vision_config.patch_size * config.spatial_merge_size
    height, width = 2 * side, 3 * side
    return {"pixel_values": (1, 3, height, width), "image_sizes": torch.tensor([[height, width]])}


def _grid(config: Any) -> dict[str, Any]:
    """One image as a list of patches, two by three after merging."""
    vision = config.vision_config
    height, width = 2 * vision.spatial_merge_size, 3 * vision.spatial_merge_size
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "pixel_values": (height * width, values),
        "image_grid_thw": torch.tensor([[1, height, width]]),
    }


def _placed_patches(config: Any) -> dict[str, Any]:
    """One image as a list of patches and their places, two by two after pooling."""
    vision = config.vision_config
    side = torch.arange(2 * vision.pooling_kernel_size)
    places = torch.cartesian_prod(side, side).flip(1)[None]
    return {
        "pixel_values": (1, places.shape[1], 3 * vision.patch_size**2),
        "image_position_ids": places,
    }


_IMAGES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "gemma3": _square,
    "gemma4": _placed_patches,
    "internvl": _square,
    "llava": _square,
    "mistral3": _with_size,
    "qwen2_vl": _grid,
    "qwen2_5_vl": _grid,
    "qwen3_5": _grid,
    "qwen3_5_moe": _grid,
    "qwen3_vl": _grid,
    "qwen3_vl_moe": _grid,
}


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
    pieces = [prompt.ids, *torch.split(rest, 1, dim=1)]
    return [(in_pieces(model, pieces, **prompt.arguments()), _whole(model, ids)[1])]


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
    mask = prompt.text.long()
    return [(plain(model, prompt.ids, engram_mask=mask, **prompt.arguments()), expected)]


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
