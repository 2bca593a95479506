"""`Backbone`: the facts about a base model that a memory depends on, read from its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from engram.backbone.activations import Decoder
from engram.backbone.claims import MAX_LAYERS, check_claims, text_part, unsuited
from engram.backbone.counting import Counts, count, count_stored
from engram.backbone.families import ATTACHED_PREFIX, FAMILIES, Family, canonical, stated_layers
from engram.backbone.float_dtype import float_dtype
from engram.errors import ConfigError, InputError, MissingFileError, Problem
from engram.storage.dtypes import DTYPE_ALIASES, TABLE_DTYPES
from engram.storage.safetensors_headers import TensorInfo
from engram.storage.stored import read_folder_headers
from engram.tensor_names import is_memory

_REQUIRED = ("hidden_size", "num_hidden_layers", "vocab_size")
_TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
_MAY_BE_ZERO = ("num_experts", "num_experts_per_tok", "n_shared_experts", "first_k_dense_replace")
_GROUPS = ("n_group", "topk_group")
_MAY_BE_NULL = ("num_key_value_heads", "head_dim", "q_lora_rank", "sliding_window", *_GROUPS)
# Structure, which other numbers follow from.
_NOT_SHOWN = ("decoder", "mixture")


@dataclass(frozen=True, kw_only=True)
class Backbone(Counts):
    """The facts about a base model that matter for attaching a memory.

    For a multimodal model they are those of the text decoder.

    Attributes:
        name: Name of the model: its hub id, or its folder's name.
        source: Source of the facts: "catalogue", a folder, or a hub id (with ``@revision``).
        model_type: Family in transformers, such as "llama"; for an attached checkpoint, that of
            its base.
        hidden_size: Width D of the hidden states.
        num_layers: Decoder layers.
        vocab_size: Rows of the vocabulary embedding (more, or fewer, than the tokenizer's length).
        tokenizer_vocab_size: The tokenizer's length, if the catalogue has it.
        hc_mult: Residual streams (hyper-connections); 1 for nearly every model.
        params: All parameters, tied weights once.
        embedding_params: Of these, the vocabulary embedding and the head if it is not tied.
        active_params: Of these, those that one token uses: all except routed experts it is not sent
            to.
        params_kind: "exact", or "estimated" where quantisation scales are counted as weights.
        pad_token_id: As the config states it; None when it does not.
        bos_token_id: The same; the first of a list.
        eos_token_id: The same; the first of a list.
        decoder: Widths that its cache and activations depend on; None when the config does not
            state its heads.
        unsuited: Reason why no memory can be attached, as a noun with its article; empty when the
            config gives none.
        dtype: dtype of most stored weights, a key of `storage.dtypes.TABLE_DTYPES`; None when the
            config does not say.
        float_dtype: Float dtype that a memory of this base has by default: that of most stored
            values, the one that a quantised base computes in; None when neither config nor
            weights tell.
    """

    name: str
    source: str
    model_type: str
    hidden_size: int
    num_layers: int
    vocab_size: int
    params_kind: Literal["exact", "estimated"] = "exact"
    tokenizer_vocab_size: int | None = None
    hc_mult: int = 1
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    dtype: str | None = None
    float_dtype: str | None = None
    decoder: Decoder | None = None
    unsuited: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights in their dtype, bfloat16 where the config states none."""
        return self.params * TABLE_DTYPES[self.dtype or "bfloat16"].bits // 8

    @property
    def cache_bytes_per_token(self) -> int | None:
        """Bytes that the key-value cache takes for a token; None if the heads are not known."""
        if self.decoder is None:
            return None
        return self.decoder.cache_bytes(1, TABLE_DTYPES[self.float_dtype or "bfloat16"].bits // 8)

    def to_dict(self) -> dict[str, Any]:
        """Return the model as ``engram models show --json`` prints it."""
        facts = {key: value for key, value in vars(self).items() if key not in _NOT_SHOWN}
        return {
            **facts,
            "size_bytes": self.size_bytes,
            "cache_bytes_per_token": self.cache_bytes_per_token,
            "max_position_embeddings": None if self.decoder is None else self.decoder.positions,
        }

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        name: str,
        source: str,
        *,
        folder: Path | None = None,
        tokenizer_vocab_size: int | None = None,
    ) -> Backbone:
        """Read the facts from a raw config.json.

        Args:
            config: The file's object. A ``text_config`` inside it takes precedence.
            name: Name of the model.
            source: Source of the config.
            folder: Folder of the weights: their headers are compared with the config, and an
                unknown family is counted from them.
            tokenizer_vocab_size: The tokenizer's length, if known.

        Raises:
            ConfigError: A size in the config is missing, impossible, or different from the weights
                in its folder.
            LayoutError: The family is unknown and there are no safetensors files to count.
            CorruptFileError: A safetensors file is torn or inconsistent.
        """
        stated = canonical(text_part(config))
        model_type = str(stated.get("model_type") or "").removeprefix(ATTACHED_PREFIX)
        family = FAMILIES.get(model_type)
        keys = {**(family.defaults if family else {}), **stated}
        keys["num_hidden_layers"] = stated_layers(stated.get)
        problems = _problems(keys, family)
        if problems:
            raise ConfigError(
                problems,
                f"{source}/config.json",
                "A language model's config.json states hidden_size (n_embd, d_model), "
                "num_hidden_layers (n_layer) and vocab_size.",
            )
        headers = _base_headers(folder)
        if headers is not None:
            shapes = {tensor: it.shape for tensor, it in headers.items()}
            check_claims(config, shapes, f"{source}/config.json")
        counts = (
            count_stored(folder, keys, name, model_type) if family is None else count(family, keys)
        )
        if counts.mixture is not None:
            default = family.expert_count if family else "num_experts"
            counts = replace(counts, mixture=counts.mixture.stated_in(config, default))
        return cls(
            name=name,
            source=source,
            model_type=model_type,
            hidden_size=keys["hidden_size"],
            num_layers=keys["num_hidden_layers"],
            vocab_size=keys["vocab_size"],
            tokenizer_vocab_size=tokenizer_vocab_size,
            hc_mult=keys.get("hc_mult") or 1,
            params_kind="estimated"
            if family is None and keys.get("quantization_config")
            else "exact",
            pad_token_id=_token_id(keys.get("pad_token_id")),
            bos_token_id=_token_id(keys.get("bos_token_id")),
            eos_token_id=_token_id(keys.get("eos_token_id")),
            dtype=_dtype(keys),
            float_dtype=float_dtype(config, headers),
            decoder=Decoder.from_keys(keys, model_type, stated.get("num_hidden_layers")),
            unsuited=unsuited(config),
            **vars(counts),
        )


def stated_backbone(config: Mapping[str, Any], name: str = "") -> Backbone | None:
    """Read the facts that a config states by itself; None where they would need the weights.

    Args:
        config: A config.json, or that of a checkpoint attached to it.
        name: Name of the model.
    """
    try:
        return Backbone.from_config(config, name, name)
    except InputError:
        return None


def base_params(config: Mapping[str, Any]) -> int | None:
    """Count the parameters of a quantised base, whose weights are packed, from its config.

    Args:
        config: Its config.json, or that of a checkpoint attached to it.

    Returns:
        Their number before quantisation; None if its family has no closed form.
    """
    backbone = stated_backbone(config)
    return None if backbone is None else backbone.params


def _problems(keys: Mapping[str, Any], family: Family | None) -> list[Problem]:
    problems = [Problem(key, "is missing") for key in _REQUIRED if keys.get(key) is None]
    rules = {**(family.defaults if family else {}), **dict.fromkeys((*_REQUIRED, "hc_mult"))}
    for key, default in rules.items():
        if key not in (*_TOKEN_IDS, "mlp_only_layers"):
            fault = _fault(key, keys.get(key), default)
            problems += [Problem(key, fault)] if fault else []
    if not problems and keys["num_hidden_layers"] > MAX_LAYERS:
        fault = f"is {keys['num_hidden_layers']}, which no model has"
        problems.append(Problem("num_hidden_layers", fault))
    return problems or (_contradictions(keys, family) if family else [])


def _fault(key: str, value: Any, default: Any) -> str:
    if value is None:
        may_be_null = default is None or key in _MAY_BE_NULL
        return "" if may_be_null else "is null; leave it out for the default"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else f"must be true or false, got {value!r}"
    lowest = 0 if key in _MAY_BE_ZERO else 1
    if type(value) is int and value >= lowest:
        return ""
    return f"must be a whole number, at least {lowest}, got {value!r}"


def _contradictions(keys: Mapping[str, Any], family: Family) -> list[Problem]:
    problems = []
    hidden, heads = keys["hidden_size"], keys["num_attention_heads"]
    dense = keys.get("mlp_only_layers") or []
    states_head = family.latent_attention or (family.grouped_heads and keys["head_dim"])
    if not states_head and hidden % heads:
        fault = f"is {heads}, which does not divide hidden_size {hidden}"
        problems.append(Problem("num_attention_heads", fault))
    if keys.get("num_experts_per_tok", 0) > keys.get("num_experts", 0) > 0:
        fault = f"is more than the {keys['num_experts']} experts there are"
        problems.append(Problem("num_experts_per_tok", fault))
    if not isinstance(dense, list) or any(type(layer) is not int for layer in dense):
        problems.append(
            Problem("mlp_only_layers", f"must be a list of layer numbers, got {dense!r}")
        )
    return problems


def _base_headers(folder: Path | None) -> dict[str, TensorInfo] | None:
    """Describe the base's tensors in a folder; None if there are none, or not all of them."""
    try:
        headers = None if folder is None else read_folder_headers(folder)
    except MissingFileError:  # an incomplete download: there is nothing to compare yet
        return None
    return headers and {name: it for name, it in headers.items() if not is_memory(name)}


def _token_id(value: Any) -> int | None:
    first = next(iter(value), None) if isinstance(value, list) else value
    # Some configs state -1 for none.
    return first if type(first) is int and first >= 0 else None


def _dtype(keys: Mapping[str, Any]) -> str | None:
    quantization = keys.get("quantization_config")
    stated = keys.get("dtype")
    if isinstance(quantization, dict):
        stated = quantization.get("quant_method")
    name = str(stated).removeprefix("torch.")
    name = DTYPE_ALIASES.get(name, name)
    return name if name in TABLE_DTYPES else None
