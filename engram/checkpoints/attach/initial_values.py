"""First values of a memory that is attached: the same bytes for the same seed, on any machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.attach.attach_plan import AttachPlan
from engram.config.engram_config import EngramConfig
from engram.sizing.weights import dense_dtype
from engram.storage.dtypes import QUANTISED
from engram.storage.machine_code import compiled
from engram.storage.safetensors_writer import Chunks, TensorStream
from engram.tensor_names import OFFSETS, SCALE, TABLE, TOKEN_MAP, tensor_name

_TABLE_STD = 1.0  # as the reference demo's table starts
# Small enough that freed chunks are reused by the allocator instead of being mapped afresh.
CHUNK_VALUES = 2**22
_LEVELS = 2**16


def first_values(
    made: AttachPlan,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    init: Literal["identity", "paper"],
) -> list[TensorStream]:
    """Give every tensor of a memory its first values, chunk by chunk.

    Args:
        made: The memory.
        tensors: Dtype tag and shape of each, by name.
        init: See `EngramModule.reset_parameters`.
    """
    streams, config, addresses = [], made.config, made.addresses
    for layer in addresses.layers:
        prefix = tensor_name(made.layers_path, layer.layer_id, "")
        values = _dense_values(config, layer.layer_id, init)
        values[OFFSETS] = np.array(layer.offsets, dtype="<i8")
        if prefix + TOKEN_MAP in tensors and addresses.token_map is not None:
            values[TOKEN_MAP] = addresses.token_map.astype("<i4")
        tables = _table_values(config, layer.layer_id, layer.stored_rows)
        for name, (tag, shape) in tensors.items():
            if not name.startswith(prefix):
                continue
            part = name.removeprefix(prefix)
            chunks = tables.get(part) or [partial(np.ascontiguousarray, values[part])]
            streams.append(TensorStream(name, tag, shape, chunks))
    return streams


def _table_values(config: EngramConfig, layer_id: int, rows: int) -> dict[str, Chunks]:
    """Describe the table of one layer, and its scales where it has some."""
    dtype, key = config.stored_dtype().name, f"{config.seed}/{layer_id}"
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

    dtype = dense_dtype(config.stored_dtype().name)
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


def normal_table(rows: int, width: int, dtype: str, *, std: float, key: str) -> Chunks:
    """Describe a table of normal values, chunk by chunk.

    Every chunk has a generator of its own (splitmix64), seeded by the key and the
    chunk's number, so that chunks can be made on any thread and in any order. Values are the 65,536
    quantiles of the normal distribution: one look-up for 16 random bits, as fast as disks write.

    Args:
        rows: Rows of the table.
        width: Columns.
        dtype: float32, bfloat16, float16 or float64.
        std: Standard deviation.
        key: Seed of the values, as text.

    Returns:
        Makers of the chunks' bytes.
    """
    return _NormalChunks(rows * width, dtype, std, key)


def quantised_table(
    rows: int, width: int, dtype: str, *, std: float, key: str
) -> tuple[Chunks, Chunks]:
    """Describe the table of `normal_table` as quantised rows, chunk by chunk.

    Args:
        rows: Rows of the table.
        width: Columns.
        dtype: fp8 or int8, see `engram.nn.quantised`.
        std: Standard deviation.
        key: Seed of the values, as text.

    Returns:
        Makers of the codes' bytes and of the scales' bytes.
    """
    values = _NormalChunks(rows * width, "float32", std, key)
    return _QuantisedChunks(values, width, dtype, 0), _QuantisedChunks(values, width, dtype, 1)


@dataclass(frozen=True)
class _NormalChunks(Sequence[Callable[[], NDArray[Any]]]):
    """Makers of a table's chunks, made when asked for: a large table has very many."""

    values: int
    dtype: str
    std: float
    key: str

    def __len__(self) -> int:
        return -(-self.values // CHUNK_VALUES)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        count = min(CHUNK_VALUES, self.values - index * CHUNK_VALUES)
        return partial(_chunk, self.dtype, self.std, f"{self.key}/{index}", count)


@dataclass(frozen=True)
class _QuantisedChunks(Sequence[Callable[[], NDArray[Any]]]):
    """Makers of codes (part 0) or scales (part 1) of a table: of the rows that start in a chunk."""

    values: _NormalChunks
    width: int
    dtype: str
    part: int

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return partial(self._make, index)

    def _make(self, index: int) -> NDArray[np.uint8]:
        import torch

        from engram.nn.quantised import FORMATS

        start, width = index * CHUNK_VALUES, self.width
        stop = min(start + CHUNK_VALUES, self.values.values)
        first, last = -(-start // width) * width - start, -(-stop // width) * width - stop
        found = [self.values[index]()[first:]]
        if last:  # the row that ends in the next chunk
            found.append(self.values[index + 1]()[:last])
        rows = torch.from_numpy(np.concatenate(found).reshape(-1, width))
        stored = FORMATS[self.dtype].quantise(rows)[self.part]
        raw: NDArray[np.uint8] = stored.contiguous().flatten().view(torch.uint8).numpy()
        return raw


def _chunk(dtype: str, std: float, key: str, count: int) -> NDArray[Any]:
    state = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    quantiles = _quantiles(dtype, std)
    out = np.empty(-(-count // 4) * 4, dtype=quantiles.dtype)
    _filler()(np.uint64(state), quantiles, out)
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
    inverse: Callable[[float], float] = NormalDist(0.0, std).inv_cdf
    exact = np.array([inverse((index + 0.5) / _LEVELS) for index in range(_LEVELS)])
    if dtype == "float16":
        return exact.astype(np.float16).view(np.int16)  # numba compiles nothing for halves
    if dtype != "bfloat16":
        return exact.astype(dtype)
    import torch

    bits: NDArray[Any] = torch.from_numpy(exact).to(torch.bfloat16).view(torch.int16).numpy()
    return bits
