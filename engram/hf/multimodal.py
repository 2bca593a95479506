"""Multimodal bases: the types that carry a memory, and the token ids that stand for no text.

Their wrapper puts images, video or sound in the place of placeholder tokens and calls its text
decoder with embeddings alone. The memory reads the wrapper's own token ids; to it placeholders are
like ids that its tokenizer does not have: they get nothing, and no n-gram holds them. The tokens
around an image that say where it starts and ends are text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engram.hf import compat

# Types whose wrapper was tested with a memory, with and without an image.
MULTIMODAL = (
    "gemma3",
    "gemma4",
    "internvl",
    "llava",
    "mistral3",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_vl",
    "qwen3_vl_moe",
)
# Sub-configs of models that read more than text.
_OTHER_SENSES = ("vision_config", "audio_config", "image_config", "video_config")
_PLACEHOLDERS = ("image_token_id", "video_token_id", "audio_token_id")
_TEXT_ALONE, _WITH_IMAGES = "AutoModelForCausalLM", "AutoModelForImageTextToText"


def other_sense(known: Any, config: Mapping[str, Any]) -> str | None:
    """Return the sub-config by which a type of model reads more than text; None where none does.

    Args:
        known: transformers' config class of the type.
        config: A config.json of that type.
    """
    found = compat.generating_classes(known)
    parts = getattr(known, "sub_configs", {})
    for name in _OTHER_SENSES:
        if name in parts or (name in config and _TEXT_ALONE not in found):
            return name
    return "text_config" if "text_config" in parts and _WITH_IMAGES in found else None


def auto_class_of(base: Mapping[str, Any]) -> str:
    """Return the name of the Auto class that loads the whole of a base.

    Args:
        base: Its `model_type`, and its `auto_map` where it is code in its own folder.
    """
    whole = "auto_map" not in base and base["model_type"] in MULTIMODAL
    return _WITH_IMAGES if whole else _TEXT_ALONE


def base_class(known: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the model class of a base that a memory is attached to, and the Auto classes for it.

    Of a multimodal type it is the whole model, also where `AutoModelForCausalLM` would take the
    text decoder alone out of it (Qwen3.5): an attached checkpoint keeps what its base can do. Both
    write the same text.

    Args:
        known: transformers' config class of the base.

    Returns:
        The class, None where there is none; and the names of Auto classes that are to load the
        attached model, of which the first one loads the base as that class, too.
    """
    found = compat.generating_classes(known)
    first = auto_class_of({"model_type": known.model_type})
    if first not in found:
        return None, ()
    return found[first], (first, *(name for name in found if name != first))


def placeholder_ids(config: Any) -> tuple[int, ...]:
    """Return the token ids in whose place a model puts something else than text.

    Args:
        config: The model's config.
    """
    found = (getattr(config, name, None) for name in _PLACEHOLDERS)
    return tuple(sorted({value for value in found if isinstance(value, int)}))
