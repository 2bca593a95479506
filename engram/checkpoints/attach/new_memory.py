"""Describes the memory that is attached: its constants, its place in the model, its settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.addressing.addresses import Addresses
from engram.addressing.tokenizer import EngramTokenizer
from engram.addressing.tokenizer_files import load_tokenizer
from engram.checkpoints.attach.attach_plan import AttachPlan
from engram.checkpoints.attach.model_card import model_card
from engram.checkpoints.read.attached_files import CARD_FILE
from engram.checkpoints.read.base_checkpoint import BaseCheckpoint
from engram.config.engram_config import EngramConfig
from engram.config.tokenizer_path import OWN, is_path
from engram.errors import LayoutError, MissingFileError
from engram.version import __version__

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile

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
    from engram.hf.admission import check_type
    from engram.hf.classes import class_after
    from engram.hf.families import code_of_base
    from engram.hf.folder_module import auto_map, remote_module
    from engram.hf.models import EngramForCausalLM
    from engram.hf.quantising import keep_memory_out

    if not isinstance(base.config.get("model_type"), str):
        raise LayoutError(
            f"{base.folder}/config.json names no model_type.", folder=str(base.folder)
        )
    code = code_of_base(base.folder, base.config, trust_remote_code)
    if code is None:
        check_type(base.config)
    shapes = {name: shape for name, (_, shape) in base.tensors.items()}
    check_claims(base.config, shapes, f"{base.folder}/config.json")
    addresses = _addresses(base, config, tokenizer)
    layers_path, config_class, model_class = _wired_classes(base, config, addresses, code)
    if config.tokenizer is not None and is_path(config.tokenizer):
        # The base's tokenizer lies beside the weights, and no other machine has this one's folders.
        config = replace(config, tokenizer=OWN)
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
            **({} if code is None else {"auto_map": code}),
        },
    }
    # transformers would look at the first tensor, which may be the memory's.
    dtype = {} if base.unstated_dtype is None else {"dtype": base.unstated_dtype}
    model_config = {
        **base.config,
        **dtype,
        "architectures": [model_class.__name__],
        "auto_map": auto_map(config_class, model_class),
        "model_type": config_class.model_type,
        "engram": settings,
    }
    base_class = class_after(model_class, EngramForCausalLM)
    model_config = keep_memory_out(model_config, base_class, config_class)
    name, text = remote_module(config_class, model_class, code)
    auto_class = None if adapter else model_class.engram_auto_classes[0]
    card = model_card(base.name, base.params, config, addresses, auto_class, base.hub_id)
    texts = {name: text, CARD_FILE: card}
    classes = config_class, model_class
    return AttachPlan(
        base, config, addresses, layers_path, model_config, texts, classes, output, adapter=adapter
    )


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
            "Name the model's tokenizer: -t FOLDER",
            path=str(base.folder),
        ) from error


def _wired_classes(
    base: BaseCheckpoint, config: EngramConfig, addresses: Addresses, code: dict[str, str] | None
) -> tuple[str, Any, Any]:
    """Build the base without its weights and see where the memory goes.

    Args:
        base: The base.
        config: The memory.
        addresses: Its constants.
        code: The base's own classes, if they are trusted code in its folder.
    """
    import torch
    import transformers

    from engram.hf.admission import check_cache, check_model, of_the_base
    from engram.hf.families import classes_of_code, load_code, model_classes
    from engram.hf.layers import check_fits, find_layers

    trusted = code is not None
    auto_class = "AutoModelForCausalLM"
    if code is None:
        classes = model_classes(str(base.config["model_type"]))
        auto_class = classes[1].engram_auto_classes[0]
    with of_the_base(base.folder):
        hf_config = transformers.AutoConfig.from_pretrained(base.folder, trust_remote_code=trusted)
        with torch.device("meta"):
            model = getattr(transformers, auto_class).from_config(
                hf_config, trust_remote_code=trusted
            )
        if code is not None:
            own: Any = type(hf_config), load_code(base.folder, code["AutoModelForCausalLM"])
            classes = classes_of_code(*own)
    check_model(model)
    decoder, layers, path = find_layers(model)
    check_cache(decoder)
    check_fits(config, addresses.layer_ids, len(layers), hf_config.get_text_config())
    return path, *classes
