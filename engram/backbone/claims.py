"""Compares the counts in a config.json with the tensors, before anything is built from it.

A wrong count, such as a depth of 2^53, would be built forever. So counts are bounded by the headers
of the weights.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from engram.backbone.families import ATTACHED_PREFIX, FAMILIES, canonical, stated_layers
from engram.errors import ConfigError, Problem

MAX_LAYERS = 10_000
# Keys, in any part of a config, of modules that are built one by one.
_COUNT = re.compile(r"(?:^|_)(?:layers?|experts?|blocks|depth)$")
# Many configs state experts that their model does not have, by default up to this many.
_UNUSED = 2**14
# Layers after the last one that predict further tokens, which causal models do not load.
_EXTRA_LAYERS = re.compile(r"(?:^|_)(?:nextn|mtp)_")
# Layers without keys and values, so there is no cache for a memory's past.
_WITHOUT_ATTENTION = ("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm")
_WIDTHS = ("hidden_size", "vocab_size")
_NARROWER = ("num_attention_heads", "num_key_value_heads", "num_experts_per_tok")
_LAYER = re.compile(r"^(.*?)\.?(\d+)\.")


def check_claims(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raise an error for a config.json whose counts do not match the tensors.

    Args:
        config: The raw config.json.
        shapes: Shape of every tensor of the weights, by name.
        source: The file's name, for the error.

    Raises:
        ConfigError: Depth, width or vocabulary differ, or a count is larger than the tensors allow.
    """
    rules = (_depth_problems, _width_problems, _count_problems)
    problems = [problem for rule in rules for problem in rule(config, shapes)]
    if problems:
        raise ConfigError(
            problems, source, "Restore the config.json that belongs to these weights."
        )


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a config's text model; a ``text_config`` overrides the top level."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else dict(config)


def unsuited(config: Mapping[str, Any]) -> str:
    """Return the reason in a model's config why a memory cannot be attached.

    Attaching checks more, with transformers.

    Args:
        config: The raw config.json.

    Returns:
        A noun with its article; empty if there is none.
    """
    if config.get("is_encoder_decoder") is True:
        return "an encoder-decoder, which is not a causal language model by itself"
    if text_part(config).get("model_type") in _WITHOUT_ATTENTION:
        return "a model without attention, whose past is in no cache that counts tokens"
    return ""


def stored_depths(names: Iterable[str]) -> dict[str, int]:
    """Count the layers in each list of modules, from tensor names.

    Args:
        names: Tensor names, such as ``model.layers.0.mlp.up_proj.weight``.

    Returns:
        Layers by the list's name, such as ``model.layers``; lists inside layers are left out.
    """
    depths: dict[str, int] = {}
    for name in names:
        found = _LAYER.match(name)
        if found:
            depths[found[1]] = max(depths.get(found[1], 0), int(found[2]) + 1)
    return depths


def _depth_problems(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Problem]:
    depth, stored = stated_layers(canonical(text_part(config)).get), stored_depths(shapes)
    if depth is None:
        return
    extra = [
        value
        for key, value in text_part(config).items()
        if _EXTRA_LAYERS.search(key) and type(value) is int
    ]
    bounds = [(layers - max([0, *extra]), layers) for layers in stored.values()]
    held = " and ".join(f"{layers} in {name}" for name, layers in sorted(stored.items()))
    if type(depth) is not int or depth < 1:
        yield Problem("num_hidden_layers", f"must be a whole number, at least 1, got {depth!r}")
    elif not any(low <= depth <= high for low, high in bounds or [(1, len(shapes))]):
        held = held or f"{len(shapes)} tensors"
        yield Problem("num_hidden_layers", f"is {depth}; the weights hold {held}")


def _width_problems(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Problem]:
    widths = {size for shape in shapes.values() for size in shape}
    keys = canonical(text_part(config))
    exact = [*_WIDTHS]
    family = FAMILIES.get(str(keys.get("model_type")).removeprefix(ATTACHED_PREFIX))
    # Every model of these families has the feed-forward width; packed values have other widths.
    if family is not None and not keys.get("quantization_config"):
        exact.append(family.expert_width or "intermediate_size")
    for key in exact:
        value = keys.get(key)
        if type(value) is int and value not in widths:
            yield Problem(key, f"is {value}; no tensor of the weights has such a dimension")
    for key in _NARROWER:
        value = keys.get(key)
        if type(value) is int and value > max(widths, default=0):
            yield Problem(key, f"is {value}, more than any tensor of the weights is wide")


def _count_problems(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Problem]:
    # Each expert has its own tensor, or all are stacked in one.
    bound = max(_UNUSED, len(shapes))
    sizes = {size for shape in shapes.values() for size in shape}
    for key, value in _numbers(config):
        if _COUNT.search(key) and value > bound and value not in sizes:
            yield Problem(key, f"is {value}; the weights hold {len(shapes)} tensors")


def _numbers(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, dict) and key != "engram":
            yield from _numbers(value, f"{prefix}{key}.")
        elif type(value) is int:
            yield f"{prefix}{key}", value
