"""Model classes: any causal language model of transformers, with memories.

For a base of type ``llama`` there are `EngramLlamaConfig` (``model_type: engram_llama``, our
settings under the key ``engram``) and `EngramLlamaForCausalLM`. Both are made from transformers'
own classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from engram.addressing.addresses import Addresses
from engram.config import EngramConfig
from engram.errors import LayoutError, MismatchError, UsageError
from engram.hf.tables import add_tables, check_saving, tables_on_disk, weights_beside_tables
from engram.hf.wiring import wire
from engram.nn import DiskEmbedding, EngramModule

Tables = Literal["ram", "disk"]

MODEL_TYPE_PREFIX = "engram_"
REMOTE_MODULE = "modeling_engram"

# Families that `import engram.hf` makes known to transformers' Auto classes; others become known
# when a checkpoint of theirs is attached to or loaded by this toolkit.
FAMILIES = (
    "deepseek_v3",
    "deepseek_v4",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "mixtral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
)


class EngramForCausalLM:
    """Mixed into a causal language model's class: builds, loads and saves it with its memories."""

    config: Any

    def __init__(
        self,
        config: Any,
        *args: Any,
        engram_tables: Mapping[int, DiskEmbedding] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        settings = config.engram
        if not settings:
            raise MismatchError(
                f"The config of this {type(self).__name__} has no memory.",
                "Attach one first: engram attach MODEL -c CONFIG -o FOLDER",
            )
        addresses = Addresses.from_dict(settings["addresses"])
        wire(self, EngramConfig.from_dict(settings["config"]), addresses, engram_tables)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        tables: Tables = "ram",
        cache_rows: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Load as transformers does; a missing tensor of the memory is an error, not a warning.

        Args:
            pretrained_model_name_or_path: As transformers takes it.
            *args: As transformers takes them.
            tables: Where tables are: ``ram``: in memory like other weights; ``disk``: in the
                checkpoint's files, from which rows are read. See `DiskEmbedding`.
            cache_rows: Rows of each table on disk that are kept in memory.
            **kwargs: As transformers takes them.

        Raises:
            MismatchError: Tensors of the memory are missing or have another shape, or the token map
                is not the one of the fingerprint.
            UsageError: `tables` is neither, or rows are to be cached of tables in memory.
        """
        if tables not in ("ram", "disk") or (tables == "ram" and cache_rows):
            raise UsageError(
                f"tables={tables!r} with cache_rows={cache_rows} makes no sense.",
                'Use tables="ram", or tables="disk" with any number of cache_rows.',
            )
        if tables == "disk":
            kwargs["engram_tables"] = tables_on_disk(
                pretrained_model_name_or_path, cache_rows, kwargs
            )
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        wrong = [name for name in info["missing_keys"] if ".engram." in name]
        wrong += [str(item[0]) for item in info["mismatched_keys"] if ".engram." in str(item[0])]
        if wrong:
            raise MismatchError(
                f"{len(wrong)} tensors of the memory are missing or have another shape, such as "
                f"{sorted(wrong)[0]}.",
                f"Check the folder: engram verify {pretrained_model_name_or_path}",
                tensors=sorted(wrong),
            )
        model.check_token_map()
        return (model, info) if wants_info else model

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any
    ) -> Any:
        load = super(EngramForCausalLM, type(model))._load_pretrained_model  # type: ignore[misc]
        if not model._tables_on_disk():
            return load(model, state_dict, checkpoint_files, *args, **kwargs)
        with weights_beside_tables(checkpoint_files) as weights:
            return load(model, weights, checkpoint_files, *args, **kwargs)

    def _tables_on_disk(self) -> dict[str, DiskEmbedding]:
        modules = self.named_modules()  # type: ignore[attr-defined]
        return {f"{name}.weight": it for name, it in modules if isinstance(it, DiskEmbedding)}

    def check_token_map(self) -> None:
        """Compare the token map that was loaded with the fingerprint.

        Raises:
            MismatchError: It is another tokenizer's.
        """
        decoder: Any = self.get_decoder()  # type: ignore[attr-defined]
        token_map = decoder.engram_token_map
        if token_map is not None and token_map.device.type != "meta":
            decoder.engram_ids.check(token_map)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save as transformers does, with the small module that `trust_remote_code` loads.

        Tables on disk are copied; an adapter of PEFT is saved without them.
        """
        tables = self._tables_on_disk()
        if tables:
            check_saving(kwargs)
        others = getattr(self.config, "auto_map", None) or {}
        self.config.auto_map = {**others, **auto_map(type(self.config), type(self))}
        # What is saved now is no longer the base's own files: there is nothing to detach.
        base = {**self.config.engram["base"], "files": None}
        self.config.engram = {**self.config.engram, "base": base}
        result = super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        whole = not getattr(self, "_hf_peft_config_loaded", False)
        if tables and whole and kwargs.get("is_main_process", True):
            add_tables(Path(save_directory), tables)
        name, text = remote_module(type(self.config), type(self))
        Path(save_directory, name).write_text(text, encoding="utf-8")
        return result

    def prepare_inputs_for_generation(
        self,
        input_ids: Any,
        *args: Any,
        inputs_embeds: Any = None,
        attention_mask: Any = None,
        engram_input_ids: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Prepare as transformers does, and keep what the memory reads.

        That is the 2-D mask, of which static caches make a 4-D one, and the ids of embeddings that
        are given in their place (`engram_input_ids`, for the first step).
        """
        inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, *args, inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
        )
        if inputs.get("input_ids") is None and engram_input_ids is not None:
            inputs["engram_input_ids"] = engram_input_ids
        if attention_mask is not None and attention_mask.ndim == 2:
            inputs["engram_mask"] = attention_mask
        elif attention_mask is None and inputs.get("attention_mask") is not None:
            # transformers made a 4-D mask of no padding at all.
            past = inputs.get("past_key_values")
            tokens = inputs.get("input_ids")
            tokens = inputs["inputs_embeds"] if tokens is None else tokens
            width = tokens.shape[1] + (0 if past is None else int(past.get_seq_length()))
            inputs["engram_mask"] = tokens.new_ones((tokens.shape[0], width), dtype=torch.bool)
        return inputs

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        if isinstance(module, EngramModule):
            module.reset_parameters("identity")

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Do nothing: the module in the folder imports this package instead of a copy of it."""


def model_classes(model_type: str) -> tuple[type[Any], type[Any]]:
    """Make the classes for a base model type, and make them known to transformers' Auto classes.

    Args:
        model_type: The base's type, such as ``llama``; or ours, ``engram_llama``.

    Returns:
        The config class and the model class.

    Raises:
        LayoutError: transformers has no causal language model of that type.
    """
    base_type = model_type.removeprefix(MODEL_TYPE_PREFIX)
    return _config_class(base_type), _model_class(base_type)


@cache
def _config_class(base_type: str) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        base: Any = CONFIG_MAPPING[base_type]
    except KeyError:
        raise _unknown(base_type) from None

    def post_init(self: Any, **kwargs: Any) -> None:
        # Model classes take long to import: a family's is made for the first config of its type.
        base.__post_init__(self, **kwargs)
        _model_class(base_type)

    made: Any = type(
        f"Engram{base.__name__}",
        (base,),
        {
            "__module__": __name__,
            "__annotations__": {"engram": dict[str, Any] | None},
            "__post_init__": post_init,
            "model_type": MODEL_TYPE_PREFIX + base_type,
            "engram": None,
            "register_for_auto_class": classmethod(lambda cls, auto_class=None: None),
        },
    )
    AutoConfig.register(made.model_type, made, exist_ok=True)
    return made


@cache
def _model_class(base_type: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

    config_class = _config_class(base_type)
    base_config = config_class.__bases__[0]
    if base_config not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _unknown(base_type)
    base: Any = MODEL_FOR_CAUSAL_LM_MAPPING[base_config]
    made: Any = type(
        f"Engram{base.__name__}",
        (EngramForCausalLM, base),
        {"__module__": __name__, "config_class": config_class},
    )
    _register_conversions({base_type: config_class.model_type, base.__name__: made.__name__})
    AutoModelForCausalLM.register(config_class, made, exist_ok=True)
    if base_config in TOKENIZER_MAPPING and TOKENIZER_MAPPING[base_config] is not None:
        tokenizer = TOKENIZER_MAPPING[base_config]
        AutoTokenizer.register(config_class, fast_tokenizer_class=tokenizer, exist_ok=True)
    return made


def _unknown(base_type: str) -> LayoutError:
    return LayoutError(
        f"The installed transformers has no causal language model of type {base_type!r}.",
        "Install a transformers that has it: pip install -U transformers",
        model_type=base_type,
    )


def _register_conversions(ours: dict[str, str]) -> None:
    """Let our types and classes load tensor names that the base's rename.

    Args:
        ours: Our names of a type and its classes, by transformers' own.
    """
    from transformers.conversion_mapping import (
        get_checkpoint_conversion_mapping,
        register_checkpoint_conversion_mapping,
    )

    for base, name in ours.items():
        mapping = get_checkpoint_conversion_mapping(base)
        if mapping is not None:
            register_checkpoint_conversion_mapping(name, mapping, overwrite=True)


def auto_map(config_class: type[Any], model_class: type[Any]) -> dict[str, str]:
    """Return what config.json tells `trust_remote_code` about our classes."""
    return {
        "AutoConfig": f"{REMOTE_MODULE}.{config_class.__name__}",
        "AutoModelForCausalLM": f"{REMOTE_MODULE}.{model_class.__name__}",
    }


def remote_module(config_class: type[Any], model_class: type[Any]) -> tuple[str, str]:
    """Return name and text of the module that `trust_remote_code` runs.

    It imports the installed toolkit instead of carrying a copy of it.
    """
    text = (
        '"""Loads this checkpoint through the installed toolkit: pip install engram-toolkit."""\n\n'
        "from engram.hf import model_classes\n\n"
        f"{config_class.__name__}, {model_class.__name__} = "
        f'model_classes("{config_class.model_type}")\n'
    )
    return f"{REMOTE_MODULE}.py", text


def register_families() -> None:
    """Make the known families loadable by transformers' Auto classes and pipelines."""
    for model_type in FAMILIES:
        _config_class(model_type)
