"""Describes the memory that is attached: its constants, its place in the model, its settings."""

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from engram.addressing.addresses import Addresses
from engram.addressing.tokenizer import EngramTokenizer
from engram.addressing.tokenizer_files import TokenizerFile, load_tokenizer
from engram.checkpoints.attach.attach_plan import AttachPlan
from engram.checkpoints.attach.model_card import model_card
from engram.checkpoints.read.attached_files import CARD_FILE
from engram.checkpoints.read.base_checkpoint import BaseCheckpoint
from engram.config.engram_config import EngramConfig
from engram.config.tokenizer_path import OWN, is_path
from engram.errors import LayoutError, MissingFileError
from engram.storage.dtypes import DTYPES
from engram.version import __version__

SETTINGS_SCHEMA = 1


def describe_attachment(
    base: BaseCheckpoint,
    config: EngramConfig,
    output: Path,
    tokenizer: TokenizerFile | None,
    trust_remote_code: bool = False,
    *,
    adapter: bool = False,
) -> AttachPlan:
    """Describe a memory of a base checkpoint, its tensors left out.

    Args:
        base: The checkpoint.
        config: The memory, with the dtype that it is stored in.
        output: The folder to appear.
        tokenizer: The model's tokenizer; the one in its folder when None, which may be missing
            where the layout hashes raw ids.
        trust_remote_code: Whether code in the base's folder may run.
        adapter: Whether it is for a folder of its own.

    Raises:
        EngramError: The tokenizer is missing or another, the model is of a kind that carries no
            memory, too shallow or of another width, its config contradicts its weights, its layers
            cannot be found, or its code is not trusted.
    """
    from engram.backbone.claims import check_claims
    from engram.hf import admission, families, folder_module
    from engram.hf.classes import class_after
    from engram.hf.models import EngramForCausalLM
    from engram.hf.quantising import keep_memory_out

    if not isinstance(base.config.get("model_type"), str):
        raise LayoutError(
            f"{base.folder}/config.json names no model_type.", folder=str(base.folder)
        )
    code = families.code_of_base(base.folder, base.config, trust_remote_code)
    base = replace(base, code=code)
    if code is None:
        admission.check_type(base.config)
    check_claims(
        base.config,
        {name: shape for name, (_, shape) in base.tensors.items()},
        f"{base.folder}/config.json",
    )
    addresses = _addresses(base, config, tokenizer)
    layers_path, config_class, model_class = _wired_classes(base, config, addresses)
    if config.tokenizer is not None and is_path(config.tokenizer):
        # The base's tokenizer lies beside the weights, and no other machine has this one's folders.
        config = replace(config, tokenizer=OWN)
    model_config = _model_config(base, config, addresses, layers_path, config_class, model_class)
    name, text = folder_module.remote_module(config_class, model_class, code)
    base_class = class_after(model_class, EngramForCausalLM)
    auto_class = None if adapter else model_class.engram_auto_classes[0]
    card = model_card(base.name, base.params, config, addresses, auto_class, base.hub_id)
    return AttachPlan(
        base=base,
        config=config,
        addresses=addresses,
        layers_path=layers_path,
        model_config=keep_memory_out(model_config, base_class, config_class),
        texts={name: text, CARD_FILE: card},
        classes=(config_class, model_class),
        output=output,
        adapter=adapter,
        kept={} if adapter else {new: base.folder / old for old, new in base.shards.items()},
        kept_tensors={
            name: (base.weight_map[name], prod(shape) * DTYPES[tag].bits // 8)
            for name, (tag, shape) in ({} if adapter else base.tensors).items()
        },
        copies={
            new: base.folder / old for old, new in ({} if adapter else base.small_files).items()
        },
    )


def _model_config(
    base: BaseCheckpoint,
    config: EngramConfig,
    addresses: Addresses,
    layers_path: str,
    config_class: Any,
    model_class: Any,
) -> dict[str, Any]:
    """The config.json of an attached checkpoint, before the memory's keys are kept out of it."""
    from engram.hf.folder_module import auto_map

    settings = {
        "schema": SETTINGS_SCHEMA,
        "toolkit_version": __version__,
        "config": config.to_dict(),
        "addresses": addresses.to_dict(),
        "layers_path": layers_path,
        "base": {
            "model_type": base.config.get("model_type"),
            "files": base.shards,
            "sidecars": base.sidecars,
            "replaced": base.replaced,
            **({} if base.code is None else {"auto_map": base.code}),
        },
    }
    return {
        **base.config,
        # transformers would look at the first tensor, which may be the memory's.
        **({} if base.unstated_dtype is None else {"dtype": base.unstated_dtype}),
        "architectures": [model_class.__name__],
        "auto_map": auto_map(config_class, model_class),
        "model_type": config_class.model_type,
        "engram": settings,
    }


def _addresses(
    base: BaseCheckpoint, config: EngramConfig, tokenizer: TokenizerFile | None
) -> Addresses:
    try:
        return EngramTokenizer(config, tokenizer or load_tokenizer(base.folder)).addresses
    except MissingFileError as error:
        if config.rules.hashes == "raw":
            return Addresses.from_config(config, None)
        raise MissingFileError(
            f"{base.folder} has no tokenizer.json, and the memory's addresses depend on it.",
            "Name the model's tokenizer: -t FOLDER (in Python, tokenizer=FOLDER)",
            path=str(base.folder),
        ) from error


def _wired_classes(
    base: BaseCheckpoint, config: EngramConfig, addresses: Addresses
) -> tuple[str, Any, Any]:
    """Build the base without its weights and see where the memory goes.

    Args:
        base: The base.
        config: The memory.
        addresses: Its constants.
    """
    import torch
    import transformers

    from engram.hf import admission, compat, families
    from engram.hf.wiring import check_fits, find_layers

    auto_class = "AutoModelForCausalLM"
    trust = {"trust_remote_code": base.code is not None}
    if base.code is None:
        classes = families.model_classes(str(base.config["model_type"]))
        auto_class = classes[1].engram_auto_classes[0]
    with admission.of_the_base(base.folder):
        hf_config = transformers.AutoConfig.from_pretrained(base.folder, **trust)
        with torch.device("meta"):
            model = getattr(transformers, auto_class).from_config(hf_config, **trust)
        if base.code is not None:
            reference, folder = base.code[auto_class], str(base.folder)
            own: Any = type(hf_config), compat.get_class_from_dynamic_module(reference, folder)
            classes = families.classes_of_code(*own)
    admission.check_model(model)
    decoder, layers, path = find_layers(model)
    admission.check_cache(decoder)
    check_fits(config, addresses.layer_ids, len(layers), hf_config.get_text_config())
    return path, *classes
