"""First values of a memory that is attached: the same bytes for the same seed, on any machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.attach.attach_plan import AttachPlan
from engram.checkpoints.read.stored_tensor import tensor_bytes
from engram.config.engram_config import EngramConfig
from engram.config.init import Init
from engram.config.table_dtype import TableDtype
from engram.storage.chunks import Chunks
from engram.storage.dtypes import QUANTISED
from engram.storage.machine_code import compiled
from engram.storage.safetensors_writer import TensorStream
from engram.tensor_names import OFFSETS, SCALE, TABLE, TOKEN_MAP, tensor_name

_TABLE_STD = 1.0  # as the reference demo's table starts
# Small enough that freed chunks are reused by the allocator instead of being mapped afresh.
CHUNK_VALUES = 2**22
_LEVELS = 2**16


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
    chunks: dict[str, Chunks] = {}
    for layer in made.addresses.layers:
        prefix = tensor_name(made.layers_path, layer.layer_id, "")
        values = _dense_values(config, dtype.around, layer.layer_id, init)
        values[OFFSETS] = np.array(layer.offsets, dtype="<i8")
        if prefix + TOKEN_MAP in tensors and made.addresses.token_map is not None:
            values[TOKEN_MAP] = made.addresses.token_map.astype("<i4")
        table = table_chunks(
            layer.stored_rows,
            config.row_width,
            dtype.name,
            std=0.0 if init == "zero-table" else _TABLE_STD,
            key=f"{config.seed}/{layer.layer_id}",
        )
        chunks |= {prefix + part: [partial(np.copy, value)] for part, value in values.items()}
        chunks |= {prefix + part: makers for part, makers in table.items()}
    return [TensorStream(name, tag, shape, chunks[name]) for name, (tag, shape) in tensors.items()]


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


@dataclass(frozen=True)
class _Chunks:
    """Makers of a table's chunks, made when asked for: a large table has very many."""

    count: int
    make: Callable[[int], NDArray[Any]]

    def __iter__(self) -> Iterator[Callable[[], NDArray[Any]]]:
        return (partial(self.make, index) for index in range(self.count))


def table_chunks(rows: int, width: int, dtype: str, *, std: float, key: str) -> dict[str, Chunks]:
    """Describe a table of normal values, and the scales of a quantised one, chunk by chunk.

    Every chunk has a generator of its own (splitmix64), seeded by the key and the
    chunk's number, so that chunks can be made on any thread and in any order. Values are the 65,536
    quantiles of the normal distribution: one look-up for 16 random bits, as fast as disks write.

    Args:
        rows: Rows of the table.
        width: Columns.
        dtype: float32, bfloat16, float16 or float64; or fp8 or int8, see `engram.nn.quantised`.
        std: Standard deviation; 0 for a table of zeros.
        key: Seed of the values, as text.

    Returns:
        Makers of the bytes of the table's chunks, and of the scales' chunks, by part.
    """
    values = rows * width
    count = -(-values // CHUNK_VALUES)
    is_quantised = dtype in QUANTISED
    normal = partial(_normal_chunk, values, "float32" if is_quantised else dtype, std, key)
    if not is_quantised:
        return {TABLE: _Chunks(count, normal)}
    quantised = partial(_quantised_chunk, normal, values, width, dtype)
    return {
        TABLE: _Chunks(count, partial(quantised, 0)),
        SCALE: _Chunks(count, partial(quantised, 1)),
    }


def _quantised_chunk(
    wide: Callable[[int], NDArray[Any]], values: int, width: int, dtype: str, part: int, index: int
) -> NDArray[np.uint8]:
    """Make codes (part 0) or scales (part 1) of the rows that start in a chunk."""
    import torch

    from engram.nn.quantised import FORMATS

    start = index * CHUNK_VALUES
    stop = min(start + CHUNK_VALUES, values)
    first, last = -(-start // width) * width - start, -(-stop // width) * width - stop
    found = [wide(index)[first:]]
    if last:  # the row that ends in the next chunk
        found.append(wide(index + 1)[:last])
    rows = torch.from_numpy(np.concatenate(found).reshape(-1, width))
    return tensor_bytes(FORMATS[dtype].quantise(rows)[part])


def _normal_chunk(values: int, dtype: str, std: float, key: str, index: int) -> NDArray[Any]:
    count = min(CHUNK_VALUES, values - index * CHUNK_VALUES)
    seed = hashlib.sha256(f"{key}/{index}".encode()).digest()[:8]
    quantiles = _quantiles(dtype, std)
    out = np.empty(-(-count // 4) * 4, dtype=quantiles.dtype)
    _filler()(np.uint64(int.from_bytes(seed, "little")), quantiles, out)
    return out[:count]


@cache
def _filler() -> Callable[[np.uint64, NDArray[Any], NDArray[Any]], None]:
    @compiled(nogil=True)
    def fill(state: np.uint64, quantiles: NDArray[Any], out: NDArray[Any]) -> None:
        for word in range(out.size // 4):
            state += np.uint64(0x9E3779B97F4A7C15)
            bits = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            bits ^= bits >> np.uint64(31)
            for part in range(4):
                out[4 * word + part] = quantiles[(bits >> np.uint64(16 * part)) & np.uint64(0xFFFF)]

    filler: Callable[[np.uint64, NDArray[Any], NDArray[Any]], None] = fill
    return filler


@cache
def _quantiles(dtype: str, std: float) -> NDArray[Any]:
    inverse: Callable[[float], float] = NormalDist().inv_cdf
    quantiles = np.array([inverse((index + 0.5) / _LEVELS) for index in range(_LEVELS)])
    exact = std * quantiles + 0.0  # no negative zeros where std is 0
    if dtype == "float16":
        return exact.astype(np.float16).view(np.int16)  # numba compiles nothing for halves
    if dtype != "bfloat16":
        return exact.astype(dtype)
    import torch

    bits: NDArray[Any] = torch.from_numpy(exact).to(torch.bfloat16).view(torch.int16).numpy()
    return bits
