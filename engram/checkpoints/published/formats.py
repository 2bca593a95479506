"""Formats of stored values: how many a tensor holds, and which scales belong to them."""

from __future__ import annotations

from dataclasses import dataclass

from engram.storage.dtypes import FLOATS
from engram.storage.safetensors_headers import TensorInfo

_FP8 = ("F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ")
# Quantised by MLX: several values to an integer, their scales and biases beside them.
MLX_TAG, MLX_PACKED = "U32", "is packed by MLX, which is not read here"
SCALE_TAGS = ("F8_E8M0", "U8", "F8_E4M3", "BF16", "F16", "F32")


@dataclass(frozen=True)
class Format:
    """A format of stored values.

    Attributes:
        name: Short name, such as fp8.
        packed: Values in one stored element.
        scaled: Values are worth nothing without scales.
    """

    name: str
    packed: int
    scaled: bool


def format_of(info: TensorInfo, columns: int | None = None) -> Format | None:
    """Tell the format of a tensor.

    Args:
        info: What the header says.
        columns: Values that a row should have, by which packed ones are known; None to take bytes
            for single values.

    Returns:
        The format; None for integers other than quantised values.
    """
    if info.dtype in FLOATS:
        return Format(FLOATS[info.dtype], 1, False)
    if info.dtype in _FP8:
        return Format("fp8", 1, True)
    if info.dtype == "F4":
        return Format("fp4", 1, True)
    if info.dtype not in ("U8", "I8"):
        return None
    packed = columns is not None and len(info.shape) == 2 and 2 * info.shape[1] == columns
    if packed:
        return Format("fp4" if info.dtype == "U8" else "int4", 2, True)
    return Format("fp8" if info.dtype == "U8" else "int8", 1, True)


def scale_shapes(shape: tuple[int, ...], block: tuple[int, int] | None) -> list[tuple[int, ...]]:
    """Shapes that the scales of a matrix may have.

    Args:
        shape: Rows and columns of its values.
        block: Rows and columns that share a scale; None for what is published elsewhere: one for
            the whole, one a row, one for 16, 32 or 128 columns, or for blocks of 32 or 128.
    """
    rows, columns = shape[0], shape[-1]
    blocks = [block] if block else [(1, 16), (1, 32), (1, 128), (32, 32), (128, 128)]
    shapes: list[tuple[int, ...]] = [
        (-(-rows // high), -(-columns // wide)) for high, wide in blocks
    ]
    return shapes if block else [(), (1,), (rows,), (rows, 1), *shapes]
