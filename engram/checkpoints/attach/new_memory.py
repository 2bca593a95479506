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
from engram.errors import MissingFileError
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
    from engram.hf.quantising import keep_memory_out

    code = admission.admit(base.folder, base.config, trust_remote_code)
    base = replace(base, code=code)
    check_claims(
        base.config,
        {name: shape for name, (_, shape) in base.tensors.items()},
        f"{base.folder}/config.json",
    )
    addresses = attached_addresses(base, config, tokenizer)
    layers_path, config_class, model_class = families.wired_classes(
        base.folder, base.config["model_type"], code, config
    )
    if config.tokenizer is not None and is_path(config.tokenizer):
        # The base's tokenizer lies beside the weights, and no other machine has this one's folders.
        config = replace(config, tokenizer=OWN)
    model_config = _model_config(base, config, addresses, layers_path, config_class, model_class)
    name, text = folder_module.remote_module(config_class, model_class, code)
    auto_class = None if adapter else model_class.engram_auto_classes[0]
    card = model_card(base, config, addresses, auto_class)
    return AttachPlan(
        base=base,
        config=config,
        addresses=addresses,
        layers_path=layers_path,
        model_config=keep_memory_out(model_config, config_class, model_class),
        texts={name: text, CARD_FILE: card},
        classes=(config_class, model_class),
        output=output,
        adapter=adapter,
        kept={} if adapter else base.kept_files,
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


def attached_addresses(
    base: BaseCheckpoint, config: EngramConfig, tokenizer: TokenizerFile | None
) -> Addresses:
    """Compute the constants of a memory that is attached; see `describe_attachment`.

    Raises:
        MissingFileError: The base has no tokenizer, and the layout hashes compressed ids.
        EngramError: The config is for another tokenizer.
    """
    try:
        tokenizer = tokenizer or load_tokenizer(base.folder)
        return EngramTokenizer(config, tokenizer).addresses
    except MissingFileError as error:
        if config.rules.hashes == "raw":
            return Addresses.from_config(config, None)
        raise MissingFileError(
            f"{base.folder} has no tokenizer.json, and the memory's addresses depend on it.",
            "Name the model's tokenizer: -t FOLDER (in Python, tokenizer=FOLDER)",
            path=str(base.folder),
        ) from error
