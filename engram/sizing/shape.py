"""Chooses a memory's shape for a base model: all of its config except the table size."""

from collections.abc import Sequence
from pathlib import Path

from engram.backbone import Backbone
from engram.config.engram_config import EngramConfig
from engram.config.tokenizer_path import explicit
from engram.errors import ConfigError, LayoutError, Problem, UsageError
from engram.layouts import get_layout
from engram.storage.json_files import TEXT, Kind, Maybe, find_json

MIN_ROWS_PER_HEAD = 2
# A tokenizer.json: its tokens are the keys of an object, or come first in the items of a list.
_TOKENS = Kind(
    "tokens",
    lambda vocab: (
        isinstance(vocab, (dict, list))
        and all(isinstance(it, str) or (it and isinstance(it, list)) for it in vocab)
    ),
)
_TOKENIZER = {"model": {"vocab": _TOKENS}, "added_tokens": Maybe([{"content": TEXT}])}


def memory_shape(
    backbone: Backbone | None,
    *,
    layout: str = "demo",
    layer_ids: Sequence[int] | None = None,
    n_head_per_ngram: int = 8,
    n_embed_per_ngram: int = 512,
    max_ngram_size: int | None = None,
    hidden_size: int | None = None,
    engram_vocab_size: int | None = None,
    hc_mult: int | None = None,
    kernel_size: int | None = None,
    table_dtype: str | None = None,
) -> EngramConfig:
    """Shape a memory for a base model; None means the model's value, then the layout's.

    Args:
        backbone: The base model; None when hidden size, vocabulary and layers are given.
        layout: Published family whose rules apply.
        layer_ids: Layers (0-based); by default the second and the middle one.
        n_head_per_ngram: Hash heads per order.
        n_embed_per_ngram: Memory width per order.
        max_ngram_size: Highest n-gram order.
        hidden_size: Width D of the hidden states.
        engram_vocab_size: Token ids that are hashed: the tokenizer's length, or the model's
            vocabulary where the layout hashes raw ids.
        hc_mult: Residual streams.
        kernel_size: Taps of the convolution.
        table_dtype: dtype of the stored table.

    Returns:
        A config with the smallest possible tables, to be sized.

    Raises:
        UsageError: Neither a model nor enough sizes are given.
        LayoutError: The model does not have a layer, or the layout is unknown.
        ConfigError: Other values are not valid in a config.
    """
    rules = get_layout(layout)
    if backbone is not None:
        hidden_size = backbone.hidden_size if hidden_size is None else hidden_size
        hc_mult = backbone.hc_mult if hc_mult is None else hc_mult
        if engram_vocab_size is None:
            hashed = tokenizer_length(backbone) if rules.hashes == "compressed" else None
            engram_vocab_size = hashed or backbone.vocab_size
        layer_ids = default_layers(backbone.num_layers) if layer_ids is None else layer_ids
        check_layers(backbone, layer_ids)
    if hidden_size is None or engram_vocab_size is None or not layer_ids:
        raise UsageError(
            "Without a model, its hidden size, vocabulary and layers must be given.",
            "Give --model, or --hidden-size, --vocab and --layers.",
        )
    max_ngram_size = rules.max_ngram_size if max_ngram_size is None else max_ngram_size
    settings = {
        "layout": layout,
        "tokenizer": None if backbone is None else _tokenizer(backbone),
        "hidden_size": hidden_size,
        "engram_vocab_size": engram_vocab_size,
        "engram_table_size": [MIN_ROWS_PER_HEAD * n_head_per_ngram] * (max_ngram_size - 1),
        "max_ngram_size": max_ngram_size,
        "n_embed_per_ngram": n_embed_per_ngram,
        "n_head_per_ngram": n_head_per_ngram,
        "layer_ids": list(layer_ids),
        "hc_mult": hc_mult,
        "kernel_size": kernel_size,
        "table_dtype": table_dtype,
        **_token_ids(backbone, engram_vocab_size, rules.fill),
    }
    return EngramConfig.from_dict(
        {key: value for key, value in settings.items() if value is not None}
    )


def check_layers(backbone: Backbone, layer_ids: Sequence[int]) -> None:
    """Check that a base model has the layers that read the memory.

    Raises:
        LayoutError: It has fewer layers.
    """
    if past := [layer_id for layer_id in layer_ids if layer_id >= backbone.num_layers]:
        raise LayoutError(
            f"Layers of {backbone.name} must be in 0..{backbone.num_layers - 1}, got {past[0]}.",
            "Layers are counted from 0 (papers often count from 1).",
            layer_ids=list(layer_ids),
            num_layers=backbone.num_layers,
        )


def check_backbone(config: EngramConfig, backbone: Backbone, source: str) -> None:
    """Check that a config fits a base model.

    Args:
        config: The memory.
        backbone: The base model.
        source: The config's name in the error.

    Raises:
        ConfigError: Layers, width, streams or vocabulary differ; all problems at once.
    """
    has = f"{backbone.name} has the layers 0 to {backbone.num_layers - 1}"
    past = [layer_id for layer_id in config.layer_ids if layer_id >= backbone.num_layers]
    compresses = config.rules.hashes == "compressed"
    sizes = {
        "hidden_size": backbone.hidden_size,
        "hc_mult": backbone.hc_mult,
        "engram_vocab_size": tokenizer_length(backbone) if compresses else None,
    }
    problems = [
        *(Problem("layer_ids", f"there is no layer {layer_id}: {has}") for layer_id in past[:1]),
        *(
            Problem(key, f"must be {value}, that of {backbone.name}, got {getattr(config, key)}")
            for key, value in sizes.items()
            if value not in (None, getattr(config, key))
        ),
    ]
    if problems:
        hint = "engram config new TEMPLATE --model MODEL fits a template to a model."
        raise ConfigError(problems, source, hint)


def default_layers(num_layers: int) -> list[int]:
    """Return the default layers that read the memory: the second and the middle one."""
    return sorted({min(1, num_layers - 1), num_layers // 2})


def tokenizer_length(backbone: Backbone) -> int | None:
    """Return the length of a model's tokenizer, from the catalogue or its tokenizer.json.

    Returns:
        Distinct tokens, including added ones; None if unknown.
    """
    file = Path(backbone.source) / "tokenizer.json"
    if backbone.tokenizer_vocab_size is not None or not file.is_file():
        return backbone.tokenizer_vocab_size
    content = find_json(file, _TOKENIZER)
    if content is None:
        return None
    vocab, added = content["model"]["vocab"], content.get("added_tokens") or ()
    tokens = {token if isinstance(token, str) else str(token[0]) for token in vocab}
    return len(tokens.union(token["content"] for token in added))


def _tokenizer(backbone: Backbone) -> str:
    if backbone.source == "catalogue":
        return backbone.name
    folder = Path(backbone.source)
    return explicit(folder) if folder.is_dir() else backbone.source.partition("@")[0]


def _token_ids(backbone: Backbone | None, vocab_size: int, fill: str) -> dict[str, int | None]:
    """Return the pad and end of text; without a pad (GPT-2, Llama 3) the end of text is used."""
    if fill == "eos" and (backbone is None or backbone.eos_token_id is None):
        raise UsageError(
            "This layout reads the end-of-text token, which is unknown.",
            "Give --model with a model whose config states eos_token_id.",
        )
    if backbone is None:
        return {}
    pad_id = backbone.eos_token_id if backbone.pad_token_id is None else backbone.pad_token_id
    ids = {"pad_id": pad_id if fill == "pad" else None, "eos_id": backbone.eos_token_id}
    return {key: value for key, value in ids.items() if value is not None and value < vocab_size}
