"""Multimodal bases: the supported types, and the token ids that do not represent text.

Their wrapper replaces placeholder tokens by images, video or sound and calls its text decoder with
embeddings alone. The memory reads the wrapper's token ids and treats placeholders like ids that its
tokenizer does not have: they get nothing, and no n-gram contains them. The tokens that mark the
start and end of an image are text.
"""

from collections.abc import Mapping
from typing import Any

from engram.hf.compat import TEXT_ALONE, WITH_IMAGES

# Types whose wrapper is tested with a memory, with and without an image.
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


def other_sense(known: Any, config: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Return the sub-config for reading more than text of a model type; None if there is none.

    Args:
        known: transformers' config class of the type.
        config: A config.json of that type.
        found: Its models, see `compat.generating_classes`.
    """
    parts = getattr(known, "sub_configs", {})
    for name in _OTHER_SENSES:
        if name in parts or (name in config and TEXT_ALONE not in found):
            return name
    return "text_config" if "text_config" in parts and WITH_IMAGES in found else None


def auto_class_of(base: Mapping[str, Any]) -> str:
    """Return the name of the Auto class that loads a whole base.

    Args:
        base: Its `model_type`, and its `auto_map` if it is code in its own folder.
    """
    whole = "auto_map" not in base and base["model_type"] in MULTIMODAL
    return WITH_IMAGES if whole else TEXT_ALONE


def base_class(model_type: str, found: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Return the model class of a base for attaching a memory, and its Auto classes.

    For a multimodal type it is the whole model, even if `AutoModelForCausalLM` would load only its
    text decoder (Qwen3.5): an attached checkpoint keeps all abilities of its base. Both generate
    the same text.

    Args:
        model_type: The base's type.
        found: Its models, see `compat.generating_classes`.

    Returns:
        The class, or None; and the names of the Auto classes that load the attached model, of which
        the first also loads the base as that class.
    """
    first = auto_class_of({"model_type": model_type})
    if first not in found:
        return None, ()
    return found[first], (first, *(name for name in found if name != first))


def placeholder_ids(config: Any) -> tuple[int, ...]:
    """Return the token ids that a model replaces by something other than text.

    Args:
        config: The model's config.
    """
    found = (getattr(config, name, None) for name in _PLACEHOLDERS)
    return tuple(sorted({value for value in found if isinstance(value, int)}))
