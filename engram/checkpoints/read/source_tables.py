"""`source_tables`: the tables of a checkpoint that another file was made from, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.checkpoints.gguf.gguf_rows import GgufRows
from engram.checkpoints.published.encoded_values import encoded_values
from engram.checkpoints.published.recognise import find_family, recognise
from engram.checkpoints.read.encoded_tensor import EncodedTensor, encoded_tensor
from engram.checkpoints.read.find_gguf import find_gguf
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.checkpoints.read.stored_tensor import StoredTensor, stored_tensor
from engram.errors import InputError, UsageError
from engram.layouts.dialect import Slot
from engram.storage.dtypes import DTYPES, TABLE_DTYPES
from engram.storage.row_encodings.fp8_rows import TWO_TENSORS
from engram.storage.safetensors_headers import TensorInfo
from engram.storage.stored import Stored, stored_model_config
from engram.tensor_names import TABLE

# A table is opened when it is compared: what is wrong with one says nothing about the others.
SourceTables = Mapping[int | None, Callable[[], "SourceTable"]]
_ELEMENTS = {dtype.tag for dtype in TABLE_DTYPES.values()}
# Encodings of rows in safetensors files, by dtype, where their scales are as the encoding has them.
_ENCODINGS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "fp8": TWO_TENSORS}


@dataclass(frozen=True)
class SourceTable:
    """A table whose single rows can be read.

    Attributes:
        encoding: Encoding of its rows; the dtype where its bytes are of none.
        rows: Rows of the table.
        width: Values of one; None where the encoding is unknown.
        row_bytes: Bytes of one, without scales that lie apart.
        read_stored: Takes rows ``[n]``, returns their bytes ``[n, bytes]`` for each tensor that a
            row is stored in.
        read_rows: Takes rows ``[n]``, returns their values ``[n, width]``.
    """

    encoding: str
    rows: int
    width: int | None
    row_bytes: int
    read_stored: Callable[[NDArray[np.int64]], Sequence[NDArray[np.uint8]]]
    read_rows: Callable[[NDArray[np.int64]], NDArray[np.float64]]


def source_tables(source: str | Path) -> SourceTables:
    """Find the tables of a checkpoint by layer; only headers are read.

    Args:
        source: A folder or a safetensors file, ours or with published names, whole or in part; or
            a GGUF file, here or on the hub.

    Returns:
        For each layer a function that opens its table. It raises a LayoutError, a MismatchError
        or a ConfigError for a table that cannot be read.

    Raises:
        MissingFileError: It is not there.
        CorruptFileError: A file is torn.
        InputError: It holds no table.
        LayoutError: It is of a kind that is not read.
        MismatchError: A memory that was attached does not fit its config.
        UsageError: It is a checkpoint on the hub that is not in GGUF.
    """
    place = find_gguf(source)
    found: dict[int | None, Callable[[], SourceTable]]
    if place is not None:
        tables = open_gguf(place).tables
        found = {table.layer_id: partial(_of_gguf, GgufRows(table)) for table in tables}
    else:
        found = _stored_tables(source)
    if not found:
        raise InputError(
            f"{source} holds no table to compare rows with.",
            "Give the checkpoint that the file was made from, or its files with the tables.",
            path=str(source),
        )
    return found


def _of_gguf(rows: GgufRows) -> SourceTable:
    table = rows.table
    return SourceTable(
        encoding=table.encoding,
        rows=rows.rows,
        width=table.width,
        row_bytes=table.values.row_bytes or 1,
        read_stored=rows.read_stored,
        read_rows=rows.read_rows,
    )


def _of_tensor(table: StoredTensor) -> SourceTable:
    is_scaled = bool(table.scales) and not table.float_scales

    def read_stored(row_ids: NDArray[np.int64]) -> Sequence[NDArray[np.uint8]]:
        readers = [table.read_bytes, *([table.read_scale_bytes] if is_scaled else [])]
        return [np.stack([read(row, 1) for row in row_ids.tolist()]) for read in readers]

    is_known = not table.scales or (is_scaled and table.rows_per_scale == 1)
    return SourceTable(
        encoding=_ENCODINGS.get(table.dtype, table.dtype) if is_known else f"scaled {table.dtype}",
        rows=table.rows,
        width=table.width,
        row_bytes=table.width * DTYPES[table.pieces[0].dtype].bits // 8,
        read_stored=read_stored,
        read_rows=table.read_rows,
    )


def _of_encoded(table: EncodedTensor) -> SourceTable:
    values = table.values
    return SourceTable(
        encoding=f"scaled {values.encoding}" if values.factors else values.encoding,
        rows=table.rows,
        width=table.width,
        row_bytes=values.row_bytes[0],
        read_stored=table.read_stored,
        read_rows=table.read_rows,
    )


def _stored_tables(source: str | Path) -> dict[int | None, Callable[[], SourceTable]]:
    """Find the tables in safetensors files, which need not be all of a checkpoint."""
    opened = open_checkpoint(source)
    if opened.path is not None and opened.path.is_file():
        folder = opened.path.parent
        if stored_model_config(folder).get("engram"):  # a file of an attached folder
            opened = open_checkpoint(folder)
    if opened.path is None:
        raise UsageError(
            f"{source} is on the hub, and rows of it are read from files here.",
            f"Bring its tables: hf download {source} --local-dir FOLDER",
        )
    if opened.stated is not None:
        tables = {layer: tensors[TABLE] for layer, tensors in opened.layers.items()}
        return {
            layer: partial(_of_tensor, it)
            for layer, it in tables.items()
            if isinstance(it, StoredTensor)
        }
    if opened.path.is_file():  # one shard of several, beside the config of all
        opened = replace(opened, model_config=stored_model_config(opened.path.parent))
    return _published_tables(opened.files)


def _published_tables(files: Stored) -> dict[int | None, Callable[[], SourceTable]]:
    family = find_family(files)
    if family is None:
        return {}
    pieces: dict[int | None, dict[bool, list[tuple[Slot, TensorInfo]]]] = {}
    for name, info in files.tensors.items():
        slot = family.read(name)
        if slot is None or slot.role != "table" or slot.side not in ("values", "scale"):
            continue
        if len(info.shape) == 2:
            of_layer = pieces.setdefault(slot.key.layer_id, {False: [], True: []})
            of_layer[slot.side == "scale"].append((slot, info))
    return {
        layer_id: partial(_open, files, found[False], found[True])
        for layer_id, found in sorted(pieces.items(), key=lambda item: item[0] or 0)
        if found[False]
    }


def _open(
    files: Stored,
    values: Sequence[tuple[Slot, TensorInfo]],
    scales: Sequence[tuple[Slot, TensorInfo]],
) -> SourceTable:
    """Put the pieces of a table together, in the order of their numbers.

    Raises:
        LayoutError: Its rows are stored in a way that is not read.
        MismatchError: Its pieces do not fit each other.
        ConfigError: Its rows are packed, and the config does not say how many values they have.
        CorruptFileError: They are packed, and there is no config.
    """
    key = values[0][0].key
    name = f"{files.name}, layer {key.layer_id}"
    if values[0][1].dtype not in _ELEMENTS:
        found = recognise(files)  # of packed rows, the config alone says how many values they have
        expected = found.expected.get(key)
        width = None if expected is None else expected.shape[-1]
        packed = None if width is None else encoded_values(found, key, width)
        if width is not None and packed is not None:
            rows = sum(info.shape[0] for info in packed.parts[0])
            return _of_encoded(encoded_tensor(name, (rows, width), packed))
    tables, factors = (
        [info for _, info in sorted(it, key=lambda pair: pair[0].shard or 0)]
        for it in (values, scales)
    )
    shape = (sum(info.shape[0] for info in tables), tables[0].shape[1])
    return _of_tensor(stored_tensor(name, shape, tables, factors))
