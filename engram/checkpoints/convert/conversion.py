"""Plans of conversions: the same format in another dtype, onto a base, or published names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engram.addressing.addresses import Addresses
from engram.checkpoints.attach.attach import MAX_SHARD_BYTES
from engram.checkpoints.attach.attach_plan import AttachPlan
from engram.checkpoints.attach.model_card import model_card
from engram.checkpoints.attach.new_memory import describe_attachment
from engram.checkpoints.convert.publish import (
    published_config,
    published_tensors,
)
from engram.checkpoints.convert.recoded import PARTS, Loss, LossRecord, Part, recode
from engram.checkpoints.read.attached_files import ADAPTER_FILE, CARD_FILE, CONFIG_FILE, MEMORY_FILE
from engram.checkpoints.read.base_checkpoint import read_base
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.digests import without_weights
from engram.checkpoints.read.stored_tensor import StoredTensor, read_bytes
from engram.config.engram_config import EngramConfig
from engram.config.tokenizer_path import is_path
from engram.storage.dtypes import QUANTISED
from engram.storage.safetensors_headers import INDEX_FILE, TensorInfo
from engram.storage.safetensors_writer import TensorStream, plan_shards
from engram.tensor_names import OFFSETS, SCALE, TABLE, TOKEN_MAP, tensor_name

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile

ATTACHED = "attached"
_COPY_BYTES = 2**24


@dataclass(frozen=True)
class Conversion:
    """Everything that a conversion writes.

    Attributes:
        source: The memory as it is stored.
        to: ``attached``, or the layout whose published names are used.
        config: The memory with the dtype that its tables will have.
        addresses: Its constants.
        output: The folder to appear.
        shards: New weight files with their tensors.
        kept: Weight files of the source that hold no part of the memory, and stay as they are.
        others: Other files and folders that are copied.
        texts: Small files, by name.
        link: Whether kept files are hard-linked instead of copied.
        record: Where the losses are collected while writing.
        attach_plan: What attaching writes, where that is how the folder is made.
    """

    source: Checkpoint
    to: str
    config: EngramConfig
    addresses: Addresses
    output: Path
    shards: list[tuple[str, list[TensorStream]]]
    kept: list[Path]
    others: list[Path]
    texts: Mapping[str, str]
    link: bool
    record: LossRecord
    attach_plan: AttachPlan | None = None

    @property
    def written_bytes(self) -> int:
        """Bytes that are written to disk."""
        if self.attach_plan is not None:
            return self.attach_plan.written_bytes
        kept = 0 if self.link else sum(path.stat().st_size for path in self.kept)
        return kept + sum(tensor.size_bytes for _, shard in self.shards for tensor in shard)

    def files(self) -> list[dict[str, Any]]:
        """List the weight files of the folder: name, bytes, and where each comes from."""
        if self.attach_plan is not None:
            return self.attach_plan.files()
        origin = "linked" if self.link else "copied"
        kept = [
            {"name": path.name, "bytes": path.stat().st_size, "origin": origin}
            for path in self.kept
        ]
        return kept + [
            {"name": name, "bytes": sum(t.size_bytes for t in shard), "origin": "memory"}
            for name, shard in self.shards
        ]

    def losses(self) -> dict[int, dict[Part, Loss]]:
        """Return the loss by layer and part; known when the conversion is written."""
        return {
            layer_id: {part: self.record.of(layer_id, part) for part in PARTS}
            for layer_id in self.source.layers
        }


def to_published(
    memory: Checkpoint, output: Path, to: str, dtype: str, tokenizer: TokenizerFile | None
) -> Conversion:
    """Describe a memory alone, under the names of its layout. See `convert_memory`."""
    stated = memory.config.tokenizer
    own = None if stated is None or is_path(stated) else stated  # no tokenizer lies beside it
    config = replace(memory.stored_config, table_dtype=dtype, tokenizer=own)
    addresses = memory.addresses_with(tokenizer)
    record, streams = LossRecord(), []
    for layer in addresses.layers:
        stored = memory.layers[layer.layer_id]
        for name, scale, values in published_tensors(config, layer, stored):
            if isinstance(values, StoredTensor):
                streams += _recoded(values, name, config, record, layer.layer_id, scale)
            else:
                streams.append(TensorStream(name, "I64", values.shape, [partial(np.copy, values)]))
    texts = {
        MEMORY_FILE: {"schema": 1, "config": config.to_dict(), "addresses": addresses.to_dict()}
    }
    rows = [layer.stored_rows for layer in addresses.layers]
    pad_id = _pad_id(memory, config, addresses)
    published = published_config(config, rows, addresses.vocab_size, pad_id)
    if published:
        texts[CONFIG_FILE] = published
    return Conversion(
        source=memory,
        to=to,
        config=config,
        addresses=addresses,
        output=output,
        shards=plan_shards(streams, MAX_SHARD_BYTES),
        kept=[],
        others=[],
        texts={name: json.dumps(values, indent=2) + "\n" for name, values in texts.items()},
        link=False,
        record=record,
    )


def to_base(
    memory: Checkpoint,
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
            values = addresses.token_map.astype("<i4")
            make = partial(np.copy, values)
            streams.append(TensorStream(prefix + TOKEN_MAP, "I32", values.shape, [make]))
        offsets = np.array(layer.offsets, dtype="<i8")
        streams.append(
            TensorStream(prefix + OFFSETS, "I64", offsets.shape, [partial(np.copy, offsets)])
        )
        for name, tensor in memory.layers[layer.layer_id].items():
            streams += _recoded(
                tensor, prefix + name, config, record, layer.layer_id, prefix + SCALE
            )
    shards = plan_shards(streams, MAX_SHARD_BYTES)
    return Conversion(
        source=memory,
        to=ATTACHED,
        config=config,
        addresses=addresses,
        output=output,
        shards=shards,
        kept=[],
        others=[],
        texts={},
        link=link,
        record=record,
        attach_plan=replace(attached, shards=shards, link=link),
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
            streams += _recoded(tensor, name, config, record, layer_id, scale)
        elif name in ours and not name.endswith(SCALE):
            streams.append(_copied(name, info))
        elif name not in ours and info.path in changed:
            moved.append(_copied(name, info))  # of the base, in one file with the memory
    kept = sorted({info.path for info in memory.tensors.values()} - changed)
    texts = _settings_file(memory, config) | _card(memory, config, addresses)
    others = [
        path
        for path in sorted(Path(memory.name).iterdir())
        if path.suffix != ".safetensors"
        and path.name not in (INDEX_FILE, *texts)
        and (path.name in memory.base.sidecars or not path.name.startswith("."))
    ]
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
        kept=kept,
        others=others,
        texts=texts,
        link=link,
        record=record,
    )


def _settings_file(memory: Checkpoint, config: EngramConfig) -> dict[str, str]:
    """Write the settings of an attached folder or an adapter anew, with another dtype."""
    settings = without_weights({**(memory.stated or {}), "config": config.to_dict()})
    model_config = {**memory.model_config, "engram": settings}
    name, values = CONFIG_FILE, model_config
    if memory.adapter:
        name, values = ADAPTER_FILE, {**memory.adapter, "model_config": model_config}
    return {name: json.dumps(values, indent=2, ensure_ascii=False) + "\n"}


def _card(memory: Checkpoint, config: EngramConfig, addresses: Addresses) -> dict[str, str]:
    """Write the model card anew, if it is the one that attaching wrote."""
    card = Path(memory.name) / CARD_FILE
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    attached_to = re.search(r"attached to (.+)\n\(([\d,]+) parameters\)", text)
    loaded_by = re.search(r"`(\w+)\.from_pretrained` loads", text)
    base_id = re.search(r"^base_model: (.+)$", text, re.MULTILINE)
    is_adapter = bool(memory.adapter)
    is_ours = attached_to is not None and (is_adapter or loaded_by is not None)
    if attached_to is None or not is_ours or addresses.fingerprint not in text:
        return {}
    made = model_card(
        attached_to[1],
        int(attached_to[2].replace(",", "")),
        config,
        addresses,
        None if is_adapter or loaded_by is None else loaded_by[1],
        base_id[1] if base_id else None,
    )
    return {CARD_FILE: made}


def _recoded(
    tensor: StoredTensor,
    name: str,
    config: EngramConfig,
    record: LossRecord,
    layer_id: int,
    scale: str,
) -> list[TensorStream]:
    """Describe how one tensor of the memory is written."""
    dtype = config.stored_dtype().name
    part: Part = "table" if tensor.name.endswith(TABLE) else "dense"
    if part == "dense" and dtype in QUANTISED:
        # Beside quantised tables the rest stays as it is; quantised projections are not read.
        dtype = "bfloat16" if tensor.dtype in QUANTISED else tensor.dtype
    return recode(tensor, name, dtype, partial(record.add, layer_id, part), scale)


def _copied(name: str, info: TensorInfo) -> TensorStream:
    """Copy a tensor's bytes, whatever they mean."""
    size = info.stop - info.start
    chunks = [
        partial(read_bytes, [info], first, min(_COPY_BYTES, size - first))
        for first in range(0, size, _COPY_BYTES)
    ]
    return TensorStream(name, info.dtype, info.shape, chunks)


def _pad_id(memory: Checkpoint, config: EngramConfig, addresses: Addresses) -> int:
    """Return a token id that stands for the fill: the config may state a token, or nothing."""
    if isinstance(config.pad_id, int) or addresses.map_sha256 is None:
        return config.pad_id if isinstance(config.pad_id, int) else 0
    token_map = memory.constant(addresses.layer_ids[0], TOKEN_MAP, "<i4")
    return int(np.flatnonzero(token_map == addresses.fill)[0])
