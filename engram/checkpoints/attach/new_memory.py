"""The memory that is attached: tensors with their first values, settings, model card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engram import __version__
from engram.addressing.addresses import Addresses
from engram.addressing.tokenizer import EngramTokenizer
from engram.addressing.tokenizer_files import load_tokenizer
from engram.checkpoints.attach.initial_values import normal_table, quantised_table
from engram.checkpoints.attach.model_card import model_card
from engram.checkpoints.read.base_checkpoint import CARD_FILE, BaseCheckpoint
from engram.checkpoints.read.tensor_names import OFFSETS, SCALE, TABLE, TOKEN_MAP
from engram.config.engram_config import EngramConfig
from engram.config.table_dtype import table_dtype
from engram.config.tokenizer_path import OWN, is_path
from engram.errors import LayoutError, MissingFileError
from engram.layouts import get_layout
from engram.sizing.weights import dense_dtype
from engram.storage.dtypes import QUANTISED, TABLE_DTYPES, scales_per_row
from engram.storage.safetensors_writer import Chunks, TensorStream

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile

SETTINGS_SCHEMA = 1
_TABLE_STD = 1.0  # as the reference demo's table starts


@dataclass(frozen=True)
class Attachment:
    """A memory made for a base checkpoint.

    Attributes:
        config: The memory, with the dtype that it is written in.
        addresses: Its constants.
        tensors: Everything that is written, in order.
        model_config: The attached folder's config.json.
        texts: Small files of the attached folder, by name.
        classes: Config class and model class of the attached checkpoint.
    """

    config: EngramConfig
    addresses: Addresses
    tensors: list[TensorStream]
    model_config: dict[str, Any]
    texts: dict[str, str]
    classes: tuple[Any, Any]

    @property
    def added_params(self) -> int:
        """Parameters of the memory: tables as stored, and dense parts."""
        dense = sum(get_layout(self.config.layout).dense_parts(self.config).values())
        rows = sum(layer.stored_rows for layer in self.addresses.layers)
        return rows * self.config.row_width + dense * len(self.addresses.layers)


def memory_tensors(
    config: EngramConfig, addresses: Addresses, layers_path: str
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name every tensor that a memory has in a checkpoint.

    Args:
        config: The memory.
        addresses: Its constants.
        layers_path: Dotted name of the base's list of layers, such as ``model.layers``.

    Returns:
        Dtype tag (as safetensors names it) and shape by name; parameters have the tag of the
        config's table_dtype, and what lies around quantised tables that of `dense_dtype`.
    """
    dtype = table_dtype(config).name
    form, tag = TABLE_DTYPES[dtype], TABLE_DTYPES[dense_dtype(dtype)].tag
    shapes = get_layout(config.layout).dense_shapes(config)
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer in addresses.layers:
        prefix = f"{layers_path}.{layer.layer_id}.engram."
        if layer is addresses.layers[0] and addresses.map_sha256 is not None:
            found[prefix + TOKEN_MAP] = ("I32", (addresses.raw_vocab_size,))
        found[prefix + OFFSETS] = ("I64", (addresses.n_columns,))
        found |= {prefix + name: (tag, shape) for name, shape in shapes.items()}
        shape = (layer.stored_rows, config.row_width)
        found[prefix + TABLE] = (form.tag, shape)
        if form.scale_tag:
            scale_shape = (shape[0], scales_per_row(config.row_width, dtype))
            found[prefix + SCALE] = (form.scale_tag, scale_shape)
    return found


def plan_attachment(
    base: BaseCheckpoint,
    config: EngramConfig,
    tokenizer: TokenizerFile | None,
    init: Literal["identity", "paper"],
    dtype: str | None,
    trust_remote_code: bool = False,
    *,
    adapter: bool = False,
) -> Attachment:
    """Make a memory for a base checkpoint, without its tables' bytes.

    Args:
        base: The checkpoint.
        config: The memory.
        tokenizer: The model's tokenizer; the one in its folder when None, which may be missing
            where the layout hashes raw ids.
        init: First values, see `EngramModule.reset_parameters`.
        dtype: Dtype of its tables; when None the config's, or the base's own.
        trust_remote_code: Whether code in the base's folder may run.
        adapter: Whether it is for a folder of its own.

    Raises:
        EngramError: The tokenizer is missing or another, the model is too shallow or of another
            width, its layers cannot be found, it would not load whole, or its code is not trusted.
    """
    config = replace(config, table_dtype=table_dtype(config, base.dtype, dtype).name)
    made = describe_attachment(base, config, tokenizer, trust_remote_code, adapter=adapter)
    layers_path = made.model_config["engram"]["layers_path"]
    _prove(base, made, layers_path)
    return replace(made, tensors=_streams(made.config, made.addresses, layers_path, init))


def _prove(base: BaseCheckpoint, made: Attachment, layers_path: str) -> None:
    from engram.checkpoints.attach.proof import check_loads

    own_code = "auto_map" in made.model_config["engram"]["base"]
    tensors = {**base.tensors, **memory_tensors(made.config, made.addresses, layers_path)}
    check_loads(base.folder, made.classes, made.model_config, tensors, own_code=own_code)


def describe_attachment(
    base: BaseCheckpoint,
    config: EngramConfig,
    tokenizer: TokenizerFile | None,
    trust_remote_code: bool = False,
    *,
    adapter: bool = False,
) -> Attachment:
    """Describe a memory of a base checkpoint, its tensors left out.

    Args:
        base: The checkpoint.
        config: The memory, with the dtype that it is stored in.
        tokenizer: See `plan_attachment`.
        trust_remote_code: See `plan_attachment`.
        adapter: See `plan_attachment`.

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
    return Attachment(config, addresses, [], model_config, texts, (config_class, model_class))


def _addresses(
    base: BaseCheckpoint, config: EngramConfig, tokenizer: TokenizerFile | None
) -> Addresses:
    try:
        return EngramTokenizer(config, tokenizer or load_tokenizer(base.folder)).addresses
    except MissingFileError as error:
        if get_layout(config.layout).hashes == "raw":
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


def _streams(
    config: EngramConfig, addresses: Addresses, layers_path: str, init: Literal["identity", "paper"]
) -> list[TensorStream]:
    """Give every tensor of the memory its first values."""
    shapes = memory_tensors(config, addresses, layers_path)
    streams = []
    for layer in addresses.layers:
        prefix = f"{layers_path}.{layer.layer_id}.engram."
        values = _dense_values(config, layer.layer_id, init)
        values[OFFSETS] = np.array(layer.offsets, dtype="<i8")
        if prefix + TOKEN_MAP in shapes and addresses.token_map is not None:
            values[TOKEN_MAP] = addresses.token_map.astype("<i4")
        tables = _table_values(config, layer.layer_id, layer.stored_rows)
        for name, (tag, shape) in shapes.items():
            if not name.startswith(prefix):
                continue
            part = name.removeprefix(prefix)
            chunks = tables.get(part) or [partial(np.ascontiguousarray, values[part])]
            streams.append(TensorStream(name, tag, shape, chunks))
    return streams


def _table_values(config: EngramConfig, layer_id: int, rows: int) -> dict[str, Chunks]:
    """Describe the table of one layer, and its scales where it has some."""
    dtype, key = table_dtype(config).name, f"{config.seed}/{layer_id}"
    if dtype in QUANTISED:
        codes, scales = quantised_table(rows, config.row_width, dtype, std=_TABLE_STD, key=key)
        return {TABLE: codes, SCALE: scales}
    return {TABLE: normal_table(rows, config.row_width, dtype, std=_TABLE_STD, key=key)}


def _dense_values(
    config: EngramConfig, layer_id: int, init: Literal["identity", "paper"]
) -> dict[str, Any]:
    """Let the module itself draw everything but its table."""
    import torch

    from engram.nn import EngramModule

    dtype = dense_dtype(table_dtype(config).name)
    smallest = [[2] * config.n_head_per_ngram for _ in config.orders]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed * 1_000_003 + layer_id)
        module = EngramModule(replace(config, table_dtype=dtype), smallest, init=init)
    module = module.to(getattr(torch, dtype))
    return {
        name: value.detach().view(_bits(value)).numpy()
        if value.is_floating_point()
        else value.numpy()
        for name, value in module.state_dict().items()
        if name not in (TABLE, OFFSETS)
    }


def _bits(value: Any) -> Any:
    """Return the integer dtype of the same size: numpy has no bfloat16."""
    import torch

    return {2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
