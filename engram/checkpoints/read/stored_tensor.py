"""`StoredTensor`: a tensor in files, quantised or in pieces, read a few rows at a time.

Shapes: a tensor counts as a matrix: its first dimension by all the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engram.errors import CorruptFileError, LayoutError, MismatchError
from engram.storage.dtypes import DTYPES, FP8_SCALE_BLOCK, QUANTISED, TABLE_DTYPES
from engram.storage.matrix import Matrix
from engram.storage.safetensors_headers import TensorInfo
from engram.storage.stored_values import decode

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = {dtype.tag: name for name, dtype in TABLE_DTYPES.items()}
# Floats that fp8 values may be scaled by.
_SCALE_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class StoredTensor(Matrix):
    """Floats in safetensors files.

    Attributes:
        name: What to call it in messages.
        shape: Its shape.
        pieces: Where its values are: one piece after the other along the first dimension.
        scales: Where the scales of quantised values are, likewise.
        rows_per_scale: Rows that share scales: 1, or 32 in fp8 projections.
        float_scales: The scales are floats: one for the whole, one for a piece, or one for a row of
            fp8 values. Else they are as this toolkit stores them.
        first_value: Values of the pieces that come before this tensor: it may be part of another.
    """

    name: str
    shape: tuple[int, ...]
    pieces: tuple[TensorInfo, ...]
    scales: tuple[TensorInfo, ...] = ()
    rows_per_scale: int = 1
    float_scales: bool = False
    first_value: int = 0

    @property
    def dtype(self) -> str:
        """Name of the stored dtype."""
        return _NAMES[self.pieces[0].dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row and of its scale bytes, where it has some of its own."""
        scale = self.scale_shape[1] if self.has_scale_bytes else 0
        return self.width * DTYPES[self.pieces[0].dtype].bits // 8 + scale

    @property
    def has_scale_bytes(self) -> bool:
        """Whether its scales are powers of two, a byte each."""
        return TABLE_DTYPES[self.dtype].scale_tag == "F8_E8M0" and not self.float_scales

    @property
    def scale_shape(self) -> tuple[int, int]:
        """Shape of the scales, as rows of scales."""
        if self.dtype == "int8":
            return self.rows, 1
        return -(-self.rows // self.rows_per_scale), -(-self.width // FP8_SCALE_BLOCK)

    @property
    def block_scales(self) -> NDArray[np.uint8] | None:
        """Scales of blocks of 32 x 32 ``[rows / 32, width / 32]``; None where it has none."""
        if self.rows_per_scale == 1 or self.rows % self.rows_per_scale:
            return None
        return self.read_scale_bytes(0, self.rows).reshape(self.scale_shape)

    def part(self, first_row: int, shape: tuple[int, ...]) -> StoredTensor:
        """Return some of the rows as a tensor of another shape."""
        return replace(self, shape=shape, first_value=self.first_value + first_row * self.width)

    def read_bytes(self, first_row: int, rows: int) -> NDArray[np.uint8]:
        """Read rows as they are stored."""
        bits = DTYPES[self.pieces[0].dtype].bits
        first = self.first_value + first_row * self.width
        return read_bytes(self.pieces, first * bits // 8, rows * self.width * bits // 8)

    @property
    def _rows_before(self) -> int:
        """Rows of the pieces that come before this tensor."""
        return self.first_value // self.width

    def read_scale_bytes(self, first_row: int, rows: int) -> NDArray[np.uint8]:
        """Read the scales of rows as they are stored; some rows may share a block."""
        row_bytes = self.scale_shape[1] * DTYPES[self.scales[0].dtype].bits // 8
        start = self._rows_before + first_row
        first, stop = start // self.rows_per_scale, -(-(start + rows) // self.rows_per_scale)
        return read_bytes(self.scales, first * row_bytes, (stop - first) * row_bytes)

    def row_factors(self, first_row: int, rows: int) -> NDArray[np.float64]:
        """Read what rows with float scales are multiplied by ``[rows]``."""
        row_ids = np.arange(first_row, first_row + rows) + self._rows_before
        sizes, count = [info.size // self.width for info in self.pieces], _count(self.scales)
        ends = np.cumsum([sum(sizes)] if count == 1 else sizes)
        is_own = count == sum(sizes)
        index = row_ids if is_own else np.searchsorted(ends, row_ids, side="right")
        first, last = int(index[0]), int(index[-1])
        tag = self.scales[0].dtype
        item = DTYPES[tag].bits // 8
        raw = read_bytes(self.scales, first * item, (last + 1 - first) * item)
        return decode(raw, tag)[index - first]

    def read_rows(self, row_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Read single rows as floats, in numpy; nothing else is read.

        Args:
            row_ids: Rows, within the tensor ``[n]``.

        Returns:
            Their values ``[n, width]``; every stored format fits float64 exactly.
        """
        form = TABLE_DTYPES[self.dtype]
        out = np.empty((len(row_ids), self.width))
        for i, row in enumerate(row_ids.tolist()):
            out[i] = decode(self.read_bytes(row, 1), form.tag)
            if self.float_scales:
                out[i] *= self.row_factors(row, 1)
            elif form.scale_tag:
                factors = decode(self.read_scale_bytes(row, 1), form.scale_tag)
                out[i] *= (
                    factors if len(factors) == 1 else factors.repeat(FP8_SCALE_BLOCK)[: len(out[i])]
                )
        return out

    def read(self, first_row: int, rows: int) -> Tensor:
        """Read rows as floats.

        Args:
            first_row: The first.
            rows: How many, at least one.

        Returns:
            Values ``[rows, width]``; quantised ones as float32.
        """
        import torch

        from engram.nn.quantised import FORMATS

        values = torch.from_numpy(self.read_bytes(first_row, rows))
        if self.dtype not in FORMATS:
            stored: torch.dtype = getattr(torch, self.dtype)
            return values.view(stored).view(rows, self.width)
        form = FORMATS[self.dtype]
        codes = values.view(form.codes).view(rows, self.width)
        if self.float_scales:
            factors = torch.from_numpy(self.row_factors(first_row, rows)).float()
            return codes.float().mul_(factors.unsqueeze(1))
        start = self._rows_before + first_row
        blocks = np.arange(start, start + rows) // self.rows_per_scale
        of_blocks = self.read_scale_bytes(first_row, rows).reshape(blocks[-1] - blocks[0] + 1, -1)
        scales = torch.from_numpy(of_blocks[blocks - blocks[0]]).view(form.scales)
        dequantised: Tensor = form.dequantise(codes, scales, dtype=torch.float32)
        return dequantised


def stored_tensor(
    name: str,
    shape: tuple[int, ...],
    pieces: Sequence[TensorInfo],
    scales: Sequence[TensorInfo] = (),
) -> StoredTensor:
    """Check that pieces and scales make up a tensor that can be read.

    Args:
        name: What to call it in messages.
        shape: The shape that it must have.
        pieces: Its pieces, in order.
        scales: Their scales, in order.

    Raises:
        MismatchError: The pieces have another size, or scales are missing or too many.
        LayoutError: A format that is not read here.
    """
    tags = {info.dtype for info in pieces}
    if len(tags) != 1 or not tags <= set(_NAMES):
        raise LayoutError(
            f"{name} is stored as {', '.join(sorted(tags)) or 'nothing'}; "
            f"{', '.join(_NAMES)} can be converted.",
            tensor=name,
            dtypes=sorted(tags),
        )
    sizes = [info.shape for info in pieces]
    # Pieces are stretches of rows, or single rows; dimensions of one element may lie elsewhere.
    inner = _without_ones(shape[1:])
    fits = all(inner in (_without_ones(size[1:]), _without_ones(size)) for size in sizes)
    if not fits or sum(info.size for info in pieces) != prod(shape):
        raise MismatchError(
            f"{name} is {' + '.join(str(list(size)) for size in sizes)}, not {list(shape)}.",
            "Give the config that the memory was made with.",
            tensor=name,
            stored=[list(size) for size in sizes],
            expected=list(shape),
        )
    made = StoredTensor(name, shape, tuple(pieces), tuple(scales))
    if made.dtype not in QUANTISED:
        if scales:
            raise MismatchError(f"{name} is {made.dtype}, and has scales.", tensor=name)
        return made
    for kind in ({}, {"rows_per_scale": FP8_SCALE_BLOCK}, {"float_scales": True}):
        scaled = replace(made, **kind)
        if _scales_fit(scaled):
            return scaled
    found = [f"{info.dtype} {list(info.shape)}" for info in scales]
    raise MismatchError(
        f"{name} is {made.dtype}, and its scales are {', '.join(found) or 'missing'}.",
        "Scales are one e8m0 for each 32 columns of a row, or one float for the whole, a piece or "
        "a row (fp8); or one float32 a row (int8).",
        tensor=name,
        scales=found,
    )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _scales_fit(tensor: StoredTensor) -> bool:
    tags, count = {info.dtype for info in tensor.scales}, _count(tensor.scales)
    if tensor.float_scales:  # of the whole, of pieces or of rows
        is_float = len(tags) == 1 and tags <= set(_SCALE_FLOATS)
        counts = (1, len(tensor.pieces), tensor.rows)
        return tensor.dtype == "fp8" and is_float and count in counts
    right = tags == {"F32"} if tensor.dtype == "int8" else bool(tags) and tags <= {"F8_E8M0", "U8"}
    rows, columns = tensor.scale_shape
    shaped = all(info.size % columns == 0 for info in tensor.scales)
    return right and shaped and count == rows * columns


def _count(tensors: Sequence[TensorInfo]) -> int:
    return sum(info.size for info in tensors)


def read_bytes(pieces: Sequence[TensorInfo], first_byte: int, count: int) -> NDArray[np.uint8]:
    """Read bytes of tensors that count as lying one after the other.

    Args:
        pieces: The tensors.
        first_byte: Where to begin, counted from the first one's start.
        count: Bytes to read; the pieces have them.

    Raises:
        CorruptFileError: A file was cut short since its header was read.
    """
    out = np.empty(count, dtype=np.uint8)
    done = 0
    for info in pieces:
        size = info.stop - info.start
        if done < count and first_byte < size:
            taken = min(size - first_byte, count - done)
            # Not mapped: pages of a map count as the process's memory.
            with info.path.open("rb") as file:
                file.seek(info.start + first_byte)
                read = file.readinto(out.data[done : done + taken])
            if read < taken:
                raise CorruptFileError(
                    f"{info.path} ends inside of a tensor.",
                    "Copy or download it again.",
                    path=str(info.path),
                )
            done += taken
        first_byte = max(0, first_byte - size)
    return out


def tensor_bytes(values: Tensor) -> NDArray[np.uint8]:
    """Return the values of a tensor as bytes, as files store them."""
    import torch

    raw: NDArray[np.uint8] = values.detach().contiguous().flatten().view(torch.uint8).numpy()
    return raw
