"""Formats of stored values: how many a tensor holds, and which scales belong to them."""

from dataclasses import dataclass

from engram.storage.dtypes import FLOATS
from engram.storage.row_encodings.mlx_kinds import MLX_BITS
from engram.storage.safetensors_headers import TensorInfo

# MLX packs values into integers of 32 bits.
MLX_TAG = "U32"
EXL3, TRELLIS_TAG = "exl3", "I16"
PACKED_TAGS = (MLX_TAG, TRELLIS_TAG)
SCALE_TAGS = ("F8_E8M0", "U8", "F8_E4M3", "BF16", "F16", "F32")


@dataclass(frozen=True)
class Format:
    """A format of stored values.

    Attributes:
        name: Short name, such as fp8.
        scaled: Values are worth nothing without scales.
        packed: An element holds several values, or a part of one: how many a row has follows from
            what is expected alone.
    """

    name: str
    scaled: bool
    packed: bool = False


_FORMATS = {
    **{tag: Format(name, False) for tag, name in FLOATS.items()},
    **{f"F8_{form}": Format("fp8", True) for form in ("E4M3", "E4M3FNUZ", "E5M2", "E5M2FNUZ")},
    **{"F4": Format("fp4", True), "U8": Format("fp8", True), "I8": Format("int8", True)},
}
# Formats of rows with half as many bytes as values.
_HALVES = {"U8": Format("fp4", True, packed=True), "I8": Format("int4", True, packed=True)}
# A row of exllamav3's trellis: a word for its length, then so many bits a value.
_WORD_BITS, _MOST_TRELLIS_BITS = 16, 8


def format_of(info: TensorInfo, columns: int | None = None) -> Format | None:
    """Tell the format of a tensor.

    Args:
        info: What the header says.
        columns: Values that a row should have, by which packed ones are known; None to take bytes
            for single values.

    Returns:
        The format; None for integers other than quantised values.
    """
    packed = _packed(info, columns) if columns and len(info.shape) == 2 else None
    return packed or _FORMATS.get(info.dtype)


def _packed(info: TensorInfo, columns: int) -> Format | None:
    words = info.shape[1]
    if info.dtype in _HALVES and 2 * words == columns:
        return _HALVES[info.dtype]
    if info.dtype == MLX_TAG:
        bits, left = divmod(32 * words, columns)
        return Format(f"mlx_b{bits}", True, packed=True) if bits in MLX_BITS and not left else None
    if info.dtype == TRELLIS_TAG:
        bits, left = divmod(_WORD_BITS * (words - 1), columns)
        if 1 <= bits <= _MOST_TRELLIS_BITS and not left:
            return Format(f"{EXL3}_b{bits}", False, packed=True)
    return None


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
