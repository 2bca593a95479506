"""Plans of conversions: to published names, onto a base, or to another dtype."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from engram.addressing.addresses import Addresses, LayerAddresses
from engram.addressing.tokenizer_files import TokenizerFile
from engram.checkpoints.attach.attach_plan import AttachPlan
from engram.checkpoints.attach.folder_plan import MAX_SHARD_BYTES, FolderPlan
from engram.checkpoints.attach.model_card import layers_table
from engram.checkpoints.attach.new_memory import describe_attachment
from engram.checkpoints.convert.exact_forms import exact_form, exact_streams
from engram.checkpoints.convert.gguf_source import GgufSource
from engram.checkpoints.convert.memory_files import memory_files
from engram.checkpoints.convert.recoded import PARTS, Loss, LossRecord, Part, Rows, recode
from engram.checkpoints.published.written_settings import written_values
from engram.checkpoints.read.attached_files import ADAPTER_FILE, CARD_FILE, CONFIG_FILE, MEMORY_FILE
from engram.checkpoints.read.base_checkpoint import read_base
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.digests import without_weights
from engram.checkpoints.read.stored_tensor import read_bytes
from engram.config.engram_config import EngramConfig
from engram.config.tokenizer_path import is_path
from engram.layouts.settings import write_settings
from engram.layouts.tensors import CONSTANTS, shape_of
from engram.storage.safetensors_headers import INDEX_FILE, TensorInfo
from engram.storage.safetensors_writer import TensorStream, plan_shards
from engram.tensor_names import OFFSETS, SCALE, TABLE, TOKEN_MAP, tensor_name

ATTACHED = "attached"
_COPY_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Conversion(FolderPlan):
    """Everything that a conversion writes.

    Attributes:
        source: The memory as it is stored.
        to: ``attached``, or the layout whose published names are used.
        config: The memory with the dtype that its tables will have.
        addresses: Its constants.
        notes: Where the losses are collected while writing.
        attach_plan: What attaching writes, where that is how the folder is made.
    """

    source: Checkpoint | GgufSource
    to: str
    config: EngramConfig
    addresses: Addresses
    notes: LossRecord
    attach_plan: AttachPlan | None = None

    @property
    def dtypes(self) -> tuple[str, str]:
        """Forms of tables: as they were stored, and as they are to be."""
        return self.source.table_form, self.config.stored_dtype().name

    def losses(self) -> dict[int, dict[Part, Loss]]:
        """Return the loss by layer and part; known when the conversion is written."""
        return {
            layer_id: {part: self.notes.of(layer_id, part) for part in PARTS}
            for layer_id in self.addresses.layer_ids
        }


def to_published(
    memory: Checkpoint | GgufSource, output: Path, dtype: str, tokenizer: TokenizerFile | None
) -> Conversion:
    """Describe a memory alone, under the names of its layout."""
    stated = memory.stored_config.tokenizer
    own = None if stated is None or is_path(stated) else stated  # no tokenizer lies beside it
    config = replace(memory.stored_config, table_dtype=dtype, tokenizer=own)
    addresses, record = memory.addresses_with(tokenizer), LossRecord()
    streams = [
        stream
        for layer in addresses.layers
        for stream in _streams(config, layer, memory.layers[layer.layer_id], record)
    ]
    texts = {
        MEMORY_FILE: {"schema": 1, "config": config.to_dict(), "addresses": addresses.to_dict()}
    }
    released = config.rules.released
    if released.model_type is not None:
        values = written_values(
            config,
            stored_rows=[layer.stored_rows for layer in addresses.layers],
            compressed_vocab_size=addresses.vocab_size,
            pad_id=_pad_id(memory, config, addresses),
        )
        settings = write_settings(released.settings, values)
        texts[CONFIG_FILE] = {"model_type": released.model_type, **settings}
    return Conversion(
        source=memory,
        to=config.layout,
        config=config,
        addresses=addresses,
        output=output,
        shards=plan_shards(streams, MAX_SHARD_BYTES),
        texts={name: json.dumps(values, indent=2) + "\n" for name, values in texts.items()},
        notes=record,
        inputs=memory_files(memory),
    )


def to_base(
    memory: Checkpoint | GgufSource,
    output: Path,
    dtype: str,
    base_folder: Path,
    tokenizer: TokenizerFile | None,
    link: bool,
    trust_remote_code: bool,
) -> Conversion:
    """Describe a memory from published names, attached to a base."""
    base = read_base(base_folder)
    config = replace(memory.stored_config, table_dtype=dtype)
    attached = describe_attachment(base, config, output, tokenizer, trust_remote_code)
    addresses = attached.addresses
    memory.check(addresses)
    record, streams = LossRecord(), []
    for layer in addresses.layers:
        prefix = tensor_name(attached.layers_path, layer.layer_id, "")
        if layer is addresses.layers[0] and addresses.token_map is not None:
            token_map = addresses.token_map.astype("<i4")
            streams.append(
                TensorStream(prefix + TOKEN_MAP, "I32", token_map.shape, [token_map.copy])
            )
        offsets = np.array(layer.offsets, dtype="<i8")
        streams.append(TensorStream(prefix + OFFSETS, "I64", offsets.shape, [offsets.copy]))
        for name, tensor in memory.layers[layer.layer_id].items():
            streams += recode(tensor, prefix + name, config, record, layer.layer_id, prefix + SCALE)
    shards = plan_shards(streams, MAX_SHARD_BYTES)
    return Conversion(
        source=memory,
        to=ATTACHED,
        config=config,
        addresses=addresses,
        output=output,
        shards=shards,
        notes=record,
        kept=attached.kept,
        link=link,
        attach_plan=replace(
            attached, shards=shards, link=link, notes=record, inputs=memory_files(memory)
        ),
    )


def rewritten(
    memory: Checkpoint, output: Path, dtype: str, tokenizer: TokenizerFile | None, link: bool
) -> Conversion:
    """Describe an attached folder, or an adapter, with its memory in another dtype."""
    config = replace(memory.stored_config, table_dtype=dtype)
    addresses, record = memory.addresses_with(tokenizer), LossRecord()
    parts = {
        tensor.name: (layer_id, tensor)
        for layer_id, tensors in memory.layers.items()
        for tensor in tensors.values()
    }
    ours = memory.memory_tensors
    changed = {info.path for info in ours.values()}
    streams, moved = [], []
    for name, info in memory.tensors.items():
        if name in parts:
            layer_id, tensor = parts[name]
            scale = name.removesuffix(TABLE) + SCALE
            streams += recode(tensor, name, config, record, layer_id, scale)
        elif name in ours and not name.endswith(SCALE):
            streams.append(_copied(name, info))
        elif name not in ours and info.path in changed:
            moved.append(_copied(name, info))  # of the base, in one file with the memory
    kept = sorted({info.path for info in memory.tensors.values()} - changed)
    texts = _settings_file(memory, config) | _card(memory, config, addresses)
    root = Path(memory.name)
    copies = {
        path.relative_to(root).as_posix(): path
        for top in sorted(root.iterdir())
        if top.suffix != ".safetensors"
        and top.name not in (INDEX_FILE, *texts)
        and (top.name in memory.base.sidecars or not top.name.startswith("."))
        for path in (top.rglob("*") if top.is_dir() else [top])
        if path.is_file()
    }
    return Conversion(
        source=memory,
        to=ATTACHED,
        config=config,
        addresses=addresses,
        output=output,
        shards=[
            *plan_shards(moved, MAX_SHARD_BYTES, "base"),
            *plan_shards(streams, MAX_SHARD_BYTES),
        ],
        kept={path.name: path for path in kept},
        kept_tensors={
            name: (info.path.name, info.stop - info.start)
            for name, info in memory.tensors.items()
            if info.path not in changed
        },
        copies=copies,
        texts=texts,
        link=link,
        notes=record,
        inputs=sorted(changed),
    )


def _streams(
    config: EngramConfig,
    layer: LayerAddresses,
    tensors: Mapping[str, Rows],
    record: LossRecord,
) -> Iterator[TensorStream]:
    """Describe one layer's tensors as their layout was published; see `recode`."""
    layout = config.rules
    for key in layout.released.keys(layer.layer_id, config.hc_mult):
        if key.name in CONSTANTS:
            values = np.array(layer.constants[key.name], dtype="<i8")
            name = layout.released.write(key)
            yield TensorStream(name, "I64", values.shape, [values.copy])
            continue
        tensor, pieces = tensors[key.name], 1
        if key.number is not None:
            shape = shape_of(layout.letters(key), config.sizes)
            tensor = tensor.part(key.number * tensor.rows // config.hc_mult, shape)
        elif "{shard}" in layout.released.names[key.name]:
            pieces = config.row_multiple
        rows = tensor.rows // pieces
        for i in range(pieces):
            part = tensor.part(i * rows, (rows, *tensor.shape[1:]))
            name, scale = (layout.released.write(key, i, scale=scale) for scale in (False, True))
            form = None
            if key.name != TABLE and config.table_dtype == "fp8":
                form = exact_form(part, layout.all_tensors[key.name].block)
            if form is None:
                yield from recode(part, name, config, record, layer.layer_id, scale)
            else:
                yield from exact_streams(part, name, scale, form)


def _pad_id(memory: Checkpoint | GgufSource, config: EngramConfig, addresses: Addresses) -> int:
    """Return a token id that stands for the fill: the config may state a token, or nothing."""
    if isinstance(memory, GgufSource):
        return config.pad_id if isinstance(config.pad_id, int) else 0
    release = memory.released.config if memory.stated is None else None
    for stated in (config, release):
        if stated is not None and isinstance(stated.pad_id, int):
            return stated.pad_id
    if addresses.map_sha256 is None:
        return 0
    token_map = memory.constant(addresses.layer_ids[0], TOKEN_MAP, "<i4")
    return int(np.flatnonzero(token_map == addresses.fill)[0])


def _settings_file(memory: Checkpoint, config: EngramConfig) -> dict[str, str]:
    """Write the settings of an attached folder or an adapter anew, with another dtype."""
    settings = without_weights({**(memory.stated or {}), "config": config.to_dict()})
    values = {**memory.model_config, "engram": settings}
    if memory.adapter:
        values = {**memory.adapter, "model_config": values}
    name = ADAPTER_FILE if memory.adapter else CONFIG_FILE
    return {name: json.dumps(values, indent=2, ensure_ascii=False) + "\n"}


def _card(memory: Checkpoint, config: EngramConfig, addresses: Addresses) -> dict[str, str]:
    """Write the table of the model card anew, if it is the one that attaching wrote."""
    card = Path(memory.name) / CARD_FILE
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    old, new = (layers_table(it, addresses) for it in (memory.stored_config, config))
    return {CARD_FILE: text.replace(old, new)} if old in text else {}


def _copied(name: str, info: TensorInfo) -> TensorStream:
    """Copy a tensor's bytes, whatever they mean."""
    size = info.stop - info.start
    chunks = [
        partial(read_bytes, [info], first, min(_COPY_BYTES, size - first))
        for first in range(0, size, _COPY_BYTES)
    ]
    return TensorStream(name, info.dtype, info.shape, chunks)
