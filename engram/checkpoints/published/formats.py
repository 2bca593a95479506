"""Formats of stored values: how many a tensor holds, and which scales belong to them."""

from dataclasses import dataclass

from engram.storage.dtypes import FLOATS
from engram.storage.safetensors_headers import TensorInfo

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


_FORMATS = {
    **{tag: Format(name, 1, False) for tag, name in FLOATS.items()},
    **{f"F8_{form}": Format("fp8", 1, True) for form in ("E4M3", "E4M3FNUZ", "E5M2", "E5M2FNUZ")},
    **{"F4": Format("fp4", 1, True), "U8": Format("fp8", 1, True), "I8": Format("int8", 1, True)},
}
# Formats of rows with half as many bytes as values.
_PACKED = {"U8": Format("fp4", 2, True), "I8": Format("int4", 2, True)}


def format_of(info: TensorInfo, columns: int | None = None) -> Format | None:
    """Tell the format of a tensor.

    Args:
        info: What the header says.
        columns: Values that a row should have, by which packed ones are known; None to take bytes
            for single values.

    Returns:
        The format; None for integers other than quantised values.
    """
    is_packed = len(info.shape) == 2 and 2 * info.shape[1] == columns
    packed = _PACKED if is_packed else {}
    return packed.get(info.dtype, _FORMATS.get(info.dtype))


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
