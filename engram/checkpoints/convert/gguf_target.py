"""Plans of conversions to GGUF: a memory alone, or in a model whose other tensors stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from engram.addressing.addresses import Addresses
from engram.addressing.tokenizer_files import TokenizerFile
from engram.checkpoints.convert.expressible import demand_ends
from engram.checkpoints.convert.gguf_conversion import GgufConversion
from engram.checkpoints.convert.gguf_source import TOOLKIT_PREFIX, GgufSource, block_scales_key
from engram.checkpoints.convert.gguf_tensors import gguf_tensors, usual_encoding
from engram.checkpoints.convert.memory_files import memory_files
from engram.checkpoints.convert.recoded import LossRecord, Rows
from engram.checkpoints.gguf.gguf_facts import fact_keys, memory_facts
from engram.checkpoints.gguf.gguf_memory import (
    ARCHITECTURE,
    TOKENS,
    GgufMemory,
    holds_gguf,
    memory_of,
)
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.complete_addresses import complete_addresses
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError, MismatchError, UsageError
from engram.layouts.gguf_dialect import GgufDialect
from engram.storage.dtypes import Q8_0, gguf_dtype_name
from engram.storage.gguf_parts import SPLIT_KINDS, GgufFiles, read_gguf_parts
from engram.storage.gguf_values import INTEGERS, GgufValue
from engram.storage.gguf_writer import ALIGNMENT, NewTensor, NewValue
from engram.storage.row_encodings.fp8_rows import ROW264, TWO_TENSORS
from engram.tensor_names import TABLE

_COPIED_BYTES = 2**22
_PAGE = 16384  # of Apple's processors: family D maps tables apart from the rest
_ALIGNMENT = 32
_WIDTH_KEYS = ("embedding_length", "hidden_size")  # of llama.cpp's family, and of ds4's


def plan_gguf(
    memory: Checkpoint | GgufSource,
    output: Path,
    dialect: GgufDialect,
    dtype: str | None,
    base: str | Path | None,
    tokenizer: TokenizerFile | None,
) -> GgufConversion:
    """Plan a conversion to GGUF.

    Args:
        memory: The memory.
        output: See `to_gguf`.
        dialect: See `to_gguf`.
        dtype: dtype of the tables, or ``q8_0``; see `to_gguf` for None.
        base: A model in GGUF whose keys and other tensors are to be in the files; those of a GGUF
            source when None.
        tokenizer: The model's tokenizer, where the token map follows from it.

    Raises:
        UsageError: The base is not in GGUF.
        EngramError: See `to_gguf`.
    """
    rows = None if dtype is None else _row_encoding(dialect, dtype)
    demand_ends(memory.stored_config, dialect.name)
    if isinstance(memory, GgufSource):
        addresses = memory.addresses_with(tokenizer)
    else:
        addresses = complete_addresses(memory, tokenizer)
    if base is not None:
        if not holds_gguf(Path(base)):
            raise UsageError(
                f"{base} is not in GGUF: the other tensors of a GGUF model come from one.",
                "Leave --base out to write the memory alone.",
            )
        files = read_gguf_parts(Path(base))
        return to_gguf(memory, output, dialect, rows, addresses, files, memory_of(files, str(base)))
    if isinstance(memory, GgufSource):
        own = memory.memory
        return to_gguf(memory, output, dialect, rows, addresses, own.files, own)
    return to_gguf(memory, output, dialect, rows, addresses)


def to_gguf(
    memory: Checkpoint | GgufSource,
    output: Path,
    dialect: GgufDialect,
    rows: str | None,
    addresses: Addresses,
    base: GgufFiles | None = None,
    base_memory: GgufMemory | None = None,
) -> GgufConversion:
    """Describe a memory in GGUF files.

    Args:
        memory: The memory.
        output: The file, or the folder of parts, to appear.
        dialect: The dialect to write.
        rows: Encoding of rows; that of the dialect, or the one that keeps their values, when None.
        addresses: The memory's constants, with their token map if compressed ids are hashed.
        base: A model whose keys and other tensors are to be in the files; None for a memory alone.
        base_memory: The memory that the model's files hold, which is left out.

    Raises:
        LayoutError: The dialect is of another layout, or cannot store such rows.
        MismatchError: The model is of an architecture whose engines look for no memory, or has
            another vocabulary or width.
    """
    config = memory.stored_config
    record = LossRecord()
    if config.layout != dialect.layout:
        raise LayoutError(
            f"A memory of layout {config.layout} cannot be written as {dialect.name}, which is for "
            f"{dialect.layout}.",
            layout=config.layout,
            to=dialect.name,
        )
    if dialect.table is not None and "{layer}" not in dialect.table and len(config.layer_ids) > 1:
        raise LayoutError(
            f"{dialect.name} has one table, and the memory is read by layers {config.layer_ids}.",
            "Write it as --to attached.",
            layer_ids=config.layer_ids,
            to=dialect.name,
        )
    own = [
        tensor
        for layer_id, parts in memory.layers.items()
        for part, stored in parts.items()
        for tensor in _tensors(dialect, layer_id, part, stored, rows, record)
    ]
    tables = {tensor.name for tensor in own if _is_table(dialect, tensor.name)}
    others = [] if base is None else [*_other_tensors(base, base_memory)]
    facts = memory_facts(addresses, size_base=config.rows_per_head[0]) | {
        "row_width": config.row_width,
        "kernel_size": config.kernel_size,
    }
    if ROW264 in dialect.row_encodings:
        facts["encoding"] = ROW264
    values = _values(dialect, facts, config, base, base_memory)
    for layer_id, parts in memory.layers.items():
        for part, stored in parts.items():
            if part != TABLE and (scales := stored.block_scales) is not None:
                key = block_scales_key(layer_id, part)
                values[key] = NewValue("uint8", scales.ravel().tolist())
    base_files = [] if base is None else [part.path for part in base.parts]
    alignment = int(values[ALIGNMENT].value)
    return GgufConversion(
        source=memory,
        dialect=dialect,
        config=config,
        addresses=addresses,
        output=output,
        values=values,
        rows=rows or _encoding(dialect, memory.layers[config.layer_ids[0]][TABLE]),
        tensors=[*others, *sorted(own, key=lambda tensor: tensor.name in tables)],
        alignment=alignment,
        inputs=[*memory_files(memory), *base_files],
        record=record,
    )


def _is_table(dialect: GgufDialect, name: str) -> bool:
    templates = [it for it in (dialect.table, dialect.scales) if it is not None]
    return any(
        dialect.tensor_layers(it, [name]) if "{layer}" in it else it == name for it in templates
    )


def _tensors(
    dialect: GgufDialect,
    layer_id: int,
    part: str,
    stored: Rows,
    rows: str | None,
    record: LossRecord,
) -> list[NewTensor]:
    """Describe the tensors of one part of a layer."""
    if part == TABLE:
        templates = [it for it in (dialect.table, dialect.scales) if it is not None]
        encoding = rows or _encoding(dialect, stored)
        dims: tuple[int, ...] = (stored.width, stored.rows)
        shift = 0.0
    else:
        templates = [dialect.weights[part]]
        encoding = dialect.weight_types.get(part) or usual_encoding(stored)
        dims = tuple(size for size in reversed(stored.shape) if size != 1) or (1,)
        shift = dialect.shifts.get(part, 0.0)
    names = tuple(it.replace("{layer}", str(layer_id)) for it in templates)
    return gguf_tensors(stored, names, dims, encoding, record, layer_id, shift)


def _row_encoding(dialect: GgufDialect, dtype: str) -> str:
    """Return the encoding of a dialect's tables for a dtype.

    Raises:
        LayoutError: It has none.
    """
    takes = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", Q8_0: "Q8_0"}
    if dialect.scales is not None:
        takes = {"fp8": TWO_TENSORS}
    elif dialect.row_encodings:
        takes = {"fp8": ROW264}
    name = gguf_dtype_name(dtype)
    if name not in takes:
        raise LayoutError(
            f"Tables of {dialect.name} are not converted to {name}.",
            f"It takes {', '.join(takes)}.",
            to=dialect.name,
            dtype=name,
        )
    return takes[name]


def _encoding(dialect: GgufDialect, table: Rows) -> str:
    """Return the encoding of rows that a dialect has, or the one that keeps their values."""
    usual = TWO_TENSORS if dialect.scales is not None else usual_encoding(table)
    return next(iter(dialect.row_encodings), usual)


def _values(
    dialect: GgufDialect,
    facts: Mapping[str, Any],
    config: EngramConfig,
    base: GgufFiles | None,
    base_memory: GgufMemory | None,
) -> dict[str, Any]:
    """Gather the metadata: the model's, and then the memory's own."""
    architecture = dialect.architectures[0]
    alignment = _PAGE if ROW264 in dialect.row_encodings else _ALIGNMENT
    values: dict[str, NewValue | GgufValue] = {ARCHITECTURE: NewValue("string", architecture)}
    own = fact_keys(dialect, facts, architecture)
    if base is None:
        values[f"{architecture}.vocab_size"] = NewValue("uint32", config.engram_vocab_size)
    else:
        stated = base.values.get(ARCHITECTURE)
        name = None if stated is None else stated.scalar()
        if name not in dialect.architectures:
            raise MismatchError(
                f"{base.parts[0].path} is a model of architecture {name}, and engines look for a "
                f"memory of {dialect.name} in {', '.join(dialect.architectures)}.",
                "Leave --base out to write the memory alone.",
                architecture=name,
            )
        _demand_same_model(base, str(name), config)
        dropped = set() if base_memory is None else base_memory.own_keys
        values |= {
            key: value
            for key, value in base.values.items()
            if key not in (*dropped, *SPLIT_KINDS, ALIGNMENT) and not key.startswith(TOOLKIT_PREFIX)
        }
        alignment = max(alignment, base.parts[0].alignment)
    return {**values, ALIGNMENT: NewValue("uint32", alignment), **own}


def _demand_same_model(base: GgufFiles, architecture: str, config: EngramConfig) -> None:
    """Refuse a model with another vocabulary or width than the memory has.

    Raises:
        MismatchError: It has.
    """
    tokens, vocab_size = base.values.get(TOKENS), config.engram_vocab_size
    count = vocab_size if tokens is None else tokens.count
    is_raw = config.rules.hashes == "raw"  # whose vocabulary may be shorter than the padded one
    if count < vocab_size or (count > vocab_size and not is_raw):
        raise MismatchError(
            f"{base.parts[0].path} has {count:,} tokens, and the memory is for {vocab_size:,}.",
            "Give the model that the memory was made for.",
            stored=count,
            expected=vocab_size,
        )
    for name in _WIDTH_KEYS:
        value = base.values.get(f"{architecture}.{name}")
        if value is None or value.is_array or value.kind not in INTEGERS:
            continue
        if value.scalar() != config.hidden_size:
            raise MismatchError(
                f"{base.parts[0].path} has hidden states of {value.scalar()}, and the memory is "
                f"for {config.hidden_size}.",
                "Give the model that the memory was made for.",
                stored=value.scalar(),
                expected=config.hidden_size,
            )


def _other_tensors(base: GgufFiles, base_memory: GgufMemory | None) -> Iterator[NewTensor]:
    """Copy the tensors of a model, but not those of its memory."""
    dropped = set() if base_memory is None else base_memory.own_tensors
    for tensor in base.tensors.values():
        if tensor.name in dropped:
            continue
        if tensor.data_bytes is None:
            raise LayoutError(
                f"{tensor.path}: {tensor.name} is of ggml type {tensor.type_id}, which is unknown: "
                "its bytes cannot be counted, and so not copied.",
                "Convert the file with the engine that wrote it.",
                tensor=tensor.name,
            )
        chunks = [
            partial(tensor.read, first, min(_COPIED_BYTES, tensor.data_bytes - first))
            for first in range(0, tensor.data_bytes, _COPIED_BYTES)
        ]
        yield NewTensor(tensor.name, tensor.dims, tensor.type_id, chunks)
