"""Refuses bases that cannot carry a memory, by what their config and their classes say.

All of it happens before anything is written, and without weights.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from engram.errors import EngramError, LayoutError, MissingError
from engram.hf import compat
from engram.hf.multimodal import MULTIMODAL, base_class, other_sense

_WORKS = "Choose a decoder-only language model, such as Llama, Qwen, Gemma or GPT-2."
# Names of the modules through which a decoder reads an encoder.
_CROSS_ATTENTION = re.compile(r"cross_?att|encoder_att|encoder_decoder_att", re.IGNORECASE)


def check_type(config: Mapping[str, Any]) -> None:
    """Refuse a type of model without a causal language model, from its raw config.json alone.

    A type that the installed transformers does not know is left to whoever loads it.

    Args:
        config: The base's config.json, whose classes are transformers' own.

    Raises:
        LayoutError: It is an encoder-decoder, multimodal, or of a type without a causal head.
    """
    model_type = str(config["model_type"])
    known = compat.config_class(model_type)
    stated = getattr(known, "is_encoder_decoder", False)
    if config.get("is_encoder_decoder", stated) is True:
        raise LayoutError(
            f"The base is an encoder-decoder (model type {model_type!r}): its decoder reads what "
            "an encoder made of another text, and is not a causal language model by itself.",
            _WORKS,
            model_type=model_type,
            reason="encoder-decoder",
        )
    if known is None:
        return
    sense = other_sense(known, config)
    if sense is not None and model_type not in MULTIMODAL:
        raise LayoutError(
            f"The base is multimodal (model type {model_type!r}, with a {sense}), and no memory "
            "was tested in a model of that type.",
            f"Attach to {', '.join(MULTIMODAL)} or to a language model that reads text alone, such "
            "as Llama or Qwen3; or to the multimodal model's text decoder, saved as a causal "
            "language model of its own.",
            model_type=model_type,
            reason="multimodal",
        )
    if base_class(known)[0] is not None:
        return
    raise LayoutError(
        f"transformers has no causal language model of type {model_type!r}, which it does know.",
        _WORKS,
        model_type=model_type,
        reason="no causal language model",
    )


@contextmanager
def of_the_base(folder: Any, doing: str = "build") -> Iterator[None]:
    """Turn errors that transformers raises over a base's own files into errors about them.

    Args:
        folder: The base.
        doing: Verb of what transformers does with the model: "build", "load" or "run".

    Raises:
        DependencyError: The installed transformers does not work as expected, whatever the base.
        LayoutError: transformers cannot do it.
        MissingError: It needs a package that is not installed.
    """
    try:
        yield
    except (EngramError, MemoryError):
        raise
    except ImportError as error:
        raise MissingError(
            f"transformers cannot {doing} {folder} without another package: {_one_line(error)}",
            "Install the package that it names.",
            path=str(folder),
        ) from error
    except Exception as error:
        # Without a number it is not from the system: transformers raises it about a bad file.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # It may be a call of ours that the installed version no longer takes.
        compat.check()
        raise LayoutError(
            f"transformers cannot {doing} {folder}, as its files are: "
            f"{type(error).__name__}: {_one_line(error)}",
            "Compare config.json with the model's own, or try another release of transformers.",
            path=str(folder),
            error=type(error).__name__,
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def check_model(model: Any) -> None:
    """Refuse a model whose hidden states a memory cannot be added to.

    Args:
        model: A causal language model, on any device.

    Raises:
        LayoutError: It reads an encoder, reads both ways, or keeps its residual in streams of its
            own.
    """
    name, config = type(model).__name__, model.config.get_text_config()
    crossing = next(
        (path for path, _ in model.named_modules() if _CROSS_ATTENTION.search(path)), ""
    )
    if crossing:
        raise LayoutError(
            f"{name} has cross-attention ({crossing}): it is the decoder of an encoder-decoder, "
            "and reads what an encoder made.",
            _WORKS,
            model=name,
            reason="encoder-decoder",
        )
    # Types that are an encoder or a decoder, as the config says, take an encoder's states, too.
    takes_encoder = any(
        "encoder_hidden_states" in inspect.signature(module.forward).parameters
        for module in model.children()
    )
    if getattr(config, "is_decoder", None) is False and takes_encoder:
        raise LayoutError(
            f"{name} is a bidirectional encoder: every token sees the ones after it.",
            _WORKS,
            model=name,
            reason="bidirectional",
        )
    streams = getattr(config, "altup_num_inputs", None)
    if streams is not None:
        raise LayoutError(
            f"{name} keeps {streams} streams inside its layers (altup_num_inputs), of which a "
            "memory cannot tell the one to write to.",
            "Choose a model with one residual stream, such as Gemma 3.",
            model=name,
            reason="streams",
            streams=streams,
        )


def check_cache(decoder: Any) -> None:
    """Refuse a decoder whose cache does not count tokens: the memory's past has to live there.

    Args:
        decoder: The module that takes token ids.

    Raises:
        LayoutError: It takes no cache of transformers', or one without keys and values.
    """
    from transformers import DynamicCache

    name = compat.cache_name(decoder.forward)
    problem = ""
    if name is None:
        problem = f"its forward takes none ({' or '.join(compat.CACHE_NAMES)})"
    elif not _counts_tokens(decoder, name):
        problem = "its own cache does not count tokens"
    else:
        try:
            DynamicCache(config=decoder.config).get_seq_length()
        except ValueError:
            problem = "none of its layers keeps keys and values"
    if problem:
        raise LayoutError(
            f"{type(decoder).__name__} keeps its past in no cache that counts tokens, where the "
            f"memory's past has to live: {problem}.",
            "Choose a model with attention in some of its layers, such as Llama or Jamba.",
            model=type(decoder).__name__,
            reason="no cache",
        )


def _counts_tokens(decoder: Any, name: str) -> bool:
    """Whether the cache that a decoder asks for, by its annotation, counts tokens."""
    try:
        stated = typing.get_type_hints(type(decoder).forward).get(name)
    except Exception:  # whatever code beside the weights writes there
        return True
    kinds = [kind for kind in typing.get_args(stated) or (stated,) if inspect.isclass(kind)]
    own = [kind for kind in kinds if kind.__module__.startswith("transformers.models.")]
    return all(hasattr(kind, "get_seq_length") for kind in own)
