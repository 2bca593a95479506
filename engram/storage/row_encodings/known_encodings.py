"""The table of row encodings by name, and the bytes of a row."""

from collections.abc import Mapping
from types import MappingProxyType

from engram.errors import CorruptFileError, LayoutError
from engram.storage.row_encodings.ggml_encodings import GGML_ENCODINGS
from engram.storage.row_encodings.mlx_encodings import mlx_affine
from engram.storage.row_encodings.mlx_kinds import MLX_BITS, MLX_GROUP_SIZES, MLX_SCALES
from engram.storage.row_encodings.row_encoding import RowEncoding
from engram.storage.row_encodings.scaled_encodings import SCALED_ENCODINGS

_MLX_ENCODINGS = (
    mlx_affine(bits, group_size, dtype)
    for bits in MLX_BITS
    for group_size in MLX_GROUP_SIZES
    for dtype in MLX_SCALES
)
_NOT_MLX = {it.name: it for it in (*GGML_ENCODINGS, *SCALED_ENCODINGS)}
ROW_ENCODINGS: Mapping[str, RowEncoding] = MappingProxyType(
    {**_NOT_MLX, **{it.name: it for it in _MLX_ENCODINGS}}
)
# A file that is being converted in place gives its rows this encoding until it is done.
_UNDERWAY = "conversion_underway"


def row_encoding(name: str) -> RowEncoding:
    """Return an encoding by its name.

    Raises:
        CorruptFileError: The name says that the file was left half converted.
        LayoutError: It is unknown.
    """
    if name == _UNDERWAY:
        raise CorruptFileError(
            f"The encoding of the rows is {name!r}: their conversion did not end, and some of them "
            "are of another encoding.",
            "Finish the conversion, or download the file again.",
            encoding=name,
        )
    if name not in ROW_ENCODINGS:
        raise LayoutError(
            f"{name!r} is an unknown encoding of rows.",
            f"Known are {', '.join(_NOT_MLX)}, and names such as mlx_affine_b4_g64_float16.",
            encoding=name,
        )
    return ROW_ENCODINGS[name]


def row_bytes(name: str, width: int) -> int:
    """Bytes of one row, in all the tensors that it is divided among.

    Args:
        name: An encoding, see `row_encoding`.
        width: Columns of a row.

    Raises:
        CorruptFileError: See `row_encoding`.
        LayoutError: The encoding is unknown, or cannot store rows of this width.
    """
    encoding = row_encoding(name)
    if not encoding.fits(width):
        unit = "a row has" if encoding.is_row else "a block has"
        fitting = [it for it in _NOT_MLX if ROW_ENCODINGS[it].fits(width)]
        raise LayoutError(
            f"Rows of {width} values cannot be stored as {name}: {unit} {encoding.block_values}.",
            f"These can: {', '.join(fitting)}.",
            encoding=name,
            width=width,
            block_values=encoding.block_values,
        )
    return width // encoding.block_values * encoding.block_bytes
