"""First values of a memory that is attached: the same bytes for the same seed, on any machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.checkpoints.attach.attach_plan import AttachPlan
from engram.checkpoints.attach.normal_values import PER_WORD, fill_normal
from engram.checkpoints.read.stored_tensor import tensor_bytes
from engram.config.engram_config import EngramConfig
from engram.config.init import Init
from engram.config.table_dtype import TableDtype
from engram.storage.chunks import Chunk, Chunks, Filled, Hole
from engram.storage.dtypes import QUANTISED, TABLE_DTYPES
from engram.storage.safetensors_writer import TensorStream
from engram.tensor_names import OFFSETS, SCALE, TABLE, TOKEN_MAP, tensor_name

if TYPE_CHECKING:
    from torch import Tensor

_TABLE_STD = 1.0  # as the reference demo's table starts
# So many that Python's lock, which the import of transformers holds meanwhile, is asked for rarely.
CHUNK_VALUES = 2**24
# Quantising needs several arrays of the size of the values.
_QUANTISED_PART = 2**4


def first_values(
    made: AttachPlan,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    dtype: TableDtype,
    init: Init,
) -> list[TensorStream]:
    """Give every tensor of a memory its first values, chunk by chunk.

    Args:
        made: The memory.
        tensors: Dtype tag and shape of each, by name.
        dtype: dtype of the tables.
        init: See `EngramModule.reset_parameters`.
    """
    config = made.config
    chunks = table_values(config, made.addresses, made.layers_path, dtype, init)
    for layer in made.addresses.layers:
        prefix = tensor_name(made.layers_path, layer.layer_id, "")
        values = _dense_values(config, dtype.around, layer.layer_id, init)
        values[OFFSETS] = np.array(layer.offsets, dtype="<i8")
        if prefix + TOKEN_MAP in tensors and made.addresses.token_map is not None:
            values[TOKEN_MAP] = made.addresses.token_map.astype("<i4")
        chunks |= {prefix + part: [partial(np.copy, value)] for part, value in values.items()}
    return [TensorStream(name, tag, shape, chunks[name]) for name, (tag, shape) in tensors.items()]


def table_values(
    config: EngramConfig, addresses: Addresses, layers_path: str, dtype: TableDtype, init: Init
) -> dict[str, Chunks]:
    """Give the tables of a memory, and the scales of quantised ones, their first values.

    Args:
        config: The memory.
        addresses: Its constants.
        layers_path: Dotted name of the model's list of layers.
        dtype: dtype of the tables.
        init: See `EngramModule.reset_parameters`.

    Returns:
        Makers of the chunks of each, by the tensor's name.
    """
    return {
        tensor_name(layers_path, layer.layer_id, part): makers
        for layer in addresses.layers
        for part, makers in table_chunks(
            layer.stored_rows,
            config.row_width,
            dtype.name,
            std=0.0 if init == "zero-table" else _TABLE_STD,
            key=f"{config.seed}/{layer.layer_id}",
        ).items()
    }


def _dense_values(
    config: EngramConfig, dtype: str, layer_id: int, init: Init
) -> dict[str, NDArray[Any]]:
    """Let the module itself draw everything but its table, as bytes."""
    import torch

    from engram.nn import EngramModule

    smallest = [[2] * config.n_head_per_ngram for _ in config.orders]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed * 1_000_003 + layer_id)
        module = EngramModule(replace(config, table_dtype=dtype), smallest, init=init)
    parts = module.to(getattr(torch, dtype)).state_dict().items()
    return {name: tensor_bytes(value) for name, value in parts if name not in (TABLE, OFFSETS)}


def table_chunks(rows: int, width: int, dtype: str, *, std: float, key: str) -> dict[str, Chunks]:
    """Describe a table of normal values, and the scales of a quantised one, chunk by chunk.

    A value follows from the key and its place in the table alone, see `normal_values`.

    Args:
        rows: Rows of the table.
        width: Columns.
        dtype: float32, bfloat16, float16 or float64; or fp8 or int8, see `engram.nn.quantised`.
        std: Standard deviation: 1, or 0 for a table of zeros, which is a hole in its file.
        key: Seed of the values, as text.

    Returns:
        Makers of the bytes of the table's chunks, and of the scales' chunks, by part.
    """
    table = _Table(rows, width, dtype, std, _seed(key))
    made: dict[str, Chunks] = {TABLE: _Chunks(table, table.values if std else table.hole)}
    if dtype in QUANTISED:
        made[SCALE] = _Chunks(table, table.scales)
    return made


def _seed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


@dataclass(frozen=True)
class _Table:
    """A new table; the arguments are those of `table_chunks`."""

    rows: int
    width: int
    dtype: str
    std: float
    seed: int

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk: as many as begin with a whole word of random bits."""
        values = CHUNK_VALUES // (_QUANTISED_PART if self.dtype in QUANTISED else 1)
        return max(1, values // self.width // PER_WORD) * PER_WORD

    def values(self, first: int, rows: int) -> Callable[[], Chunk]:
        """Return the maker of values, or of codes, of rows."""
        if self.dtype in QUANTISED:
            return lambda: tensor_bytes(self._quantised(first, rows)[0])
        size_bytes = rows * self.width * TABLE_DTYPES[self.dtype].bits // 8
        return Filled(size_bytes, partial(self._fill, first, self.dtype))

    def scales(self, first: int, rows: int) -> Callable[[], Chunk]:
        """Return the maker of the scales of rows."""
        return lambda: tensor_bytes(self._quantised(first, rows)[1])

    def hole(self, first: int, rows: int) -> Callable[[], Chunk]:
        """Return the maker of values, or of codes, that are zero."""
        return partial(Hole, rows * self.width * TABLE_DTYPES[self.dtype].bits // 8)

    def _fill(self, first: int, dtype: str, out: NDArray[Any]) -> None:
        fill_normal(self.seed, first * self.width, out, dtype)

    def _quantised(self, first: int, rows: int) -> tuple[Tensor, Tensor]:
        import torch

        from engram.nn.quantised import FORMATS

        wide = np.zeros((rows, self.width), dtype=np.float32)
        if self.std:
            self._fill(first, "float32", wide.reshape(-1))
        return FORMATS[self.dtype].quantise(torch.from_numpy(wide))


@dataclass(frozen=True)
class _Chunks:
    """Makers of a table's chunks, made when asked for: a large table has very many."""

    table: _Table
    maker: Callable[[int, int], Callable[[], Chunk]]

    def __iter__(self) -> Iterator[Callable[[], Chunk]]:
        rows, step = self.table.rows, self.table.chunk_rows
        return (self.maker(first, min(step, rows - first)) for first in range(0, rows, step))
