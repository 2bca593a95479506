"""Refuses bases that cannot carry a memory, from their config and classes.

All checks run before anything is written, and without weights.
"""

import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engram.errors import EngramError, InputError, LayoutError, MissingError
from engram.hf import compat
from engram.hf.folder_module import CODE_KEYS, module_and_class
from engram.hf.multimodal import MULTIMODAL, base_class, other_sense

_WORKS = "Choose a decoder-only language model, such as Llama, Qwen, Gemma or GPT-2."
# Names of the modules through which a decoder reads an encoder.
_CROSS_ATTENTION = re.compile(r"cross_?att|encoder_att|encoder_decoder_att", re.IGNORECASE)


def admit(folder: Path, config: Mapping[str, Any], trust: bool) -> dict[str, str] | None:
    """Refuse a type of model without a causal language model, from its raw config.json alone.

    A type that the installed transformers does not know is left to the code that loads it.

    Args:
        folder: The base's folder.
        config: Its config.json.
        trust: Whether the code in the folder may run.

    Returns:
        The entries of `auto_map` for a base that needs that code; None for one whose classes are
        transformers' own.

    Raises:
        LayoutError: It is an encoder-decoder, multimodal, or of a type without a causal head, or
            its config names no type.
        InputError: Its code may not run, and transformers has no such model; or its code is in
            another repository.
    """
    model_type, stated = config.get("model_type"), config.get("auto_map")
    if not isinstance(model_type, str):
        raise LayoutError(f"{folder}/config.json names no model_type.", folder=str(folder))
    stated = stated if isinstance(stated, dict) else {}
    code = {key: str(stated[key]) for key in CODE_KEYS if key in stated}
    needs_code = compat.TEXT_ALONE in code
    if needs_code and trust:
        for reference in code.values():
            module_and_class(reference)
        return code
    known = compat.config_class(model_type)
    found = compat.generating_classes(known)
    base, _ = base_class(model_type, found)
    sense = other_sense(known, config, found)
    if needs_code and base is None:
        raise not_trusted(folder, code[compat.TEXT_ALONE])
    if config.get("is_encoder_decoder", getattr(known, "is_encoder_decoder", False)) is True:
        raise LayoutError(
            f"The base is an encoder-decoder (model type {model_type!r}): its decoder reads the "
            "output of an encoder, and is not a causal language model by itself.",
            _WORKS,
            model_type=model_type,
            reason="encoder-decoder",
        )
    if known is None:
        return None
    if sense is not None and model_type not in MULTIMODAL:
        raise LayoutError(
            f"The base is multimodal (model type {model_type!r}, with a {sense}), and memories "
            "were not tested in models of that type.",
            f"Attach to {', '.join(MULTIMODAL)} or to a model for text only, such as Llama or "
            "Qwen3; or to the multimodal model's text decoder, saved as a separate causal "
            "language model.",
            model_type=model_type,
            reason="multimodal",
        )
    if base is None:
        raise LayoutError(
            f"transformers has no causal language model for the known type {model_type!r}.",
            _WORKS,
            model_type=model_type,
            reason="no causal language model",
        )
    return None


def not_trusted(folder: Path | str, reference: str) -> InputError:
    """Return the error for a model whose code may not run."""
    return InputError(
        f"{folder}: transformers has no class for this model; loading it would run the code "
        f"beside its weights ({reference}).",
        "Read that code; if you trust it, pass --trust-remote-code (in Python, "
        "trust_remote_code=True).",
        reference=reference,
    )


@contextmanager
def of_the_base(folder: Path, doing: str = "build") -> Iterator[None]:
    """Turn errors of transformers about a base's own files into errors that name the base.

    Args:
        folder: The base.
        doing: The action of transformers, as a verb: "build", "load" or "run".

    Raises:
        DependencyError: The installed transformers does not work as expected for any base.
        LayoutError: transformers cannot do this with the base.
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
        # An OSError without a number is not from the system: transformers raises it for a bad file.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # The cause may be a call that the installed version no longer supports.
        compat.check()
        raise LayoutError(
            f"transformers cannot {doing} {folder} from its files: "
            f"{type(error).__name__}: {_one_line(error)}",
            "Compare config.json with the model's own, or try another release of transformers.",
            path=str(folder),
            error=type(error).__name__,
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def check_model(model: Any) -> None:
    """Raise an error for a model to whose hidden states a memory cannot be added.

    Args:
        model: A causal language model, on any device.

    Raises:
        LayoutError: It reads an encoder, is bidirectional, or has its own kind of residual
            streams.
    """
    name, config = type(model).__name__, model.config.get_text_config()
    crossing = next(
        (path for path, _ in model.named_modules() if _CROSS_ATTENTION.search(path)), ""
    )
    if crossing:
        raise LayoutError(
            f"{name} has cross-attention ({crossing}): it is the decoder of an encoder-decoder, "
            "and reads the output of an encoder.",
            _WORKS,
            model=name,
            reason="encoder-decoder",
        )
    # Types that can be an encoder or a decoder, depending on the config, also take an encoder's
    # states.
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
            f"{name} keeps {streams} streams inside its layers (altup_num_inputs), and it is not "
            "defined which of them a memory would write to.",
            "Choose a model with one residual stream, such as Gemma 3.",
            model=name,
            reason="streams",
            streams=streams,
        )


def check_cache(decoder: Any) -> None:
    """Raise an error for a decoder whose cache does not count tokens, as the memory's past needs.

    Args:
        decoder: The module that takes token ids.

    Raises:
        LayoutError: It takes no cache of transformers, or one without keys and values.
    """
    from transformers import DynamicCache

    name = compat.cache_name(decoder.forward)
    problem = ""
    if name is None:
        problem = f"its forward takes no cache ({' or '.join(compat.CACHE_NAMES)})"
    elif not _counts_tokens(decoder, name):
        problem = "its own cache does not count tokens"
    else:
        try:
            DynamicCache(config=decoder.config).get_seq_length()
        except ValueError:
            problem = "none of its layers keeps keys and values"
    if problem:
        raise LayoutError(
            f"{type(decoder).__name__} has no cache that counts tokens, which has to hold the "
            f"memory's past: {problem}.",
            "Choose a model with attention in some of its layers, such as Llama or Jamba.",
            model=type(decoder).__name__,
            reason="no cache",
        )


def _counts_tokens(decoder: Any, name: str) -> bool:
    """Whether the cache in the annotation of a decoder's forward counts tokens."""
    try:
        stated = typing.get_type_hints(type(decoder).forward).get(name)
    except Exception:  # code beside the weights may have any annotation
        return True
    kinds = [kind for kind in typing.get_args(stated) or (stated,) if inspect.isclass(kind)]
    own = [kind for kind in kinds if kind.__module__.startswith("transformers.models.")]
    return all(hasattr(kind, "get_seq_length") for kind in own)
