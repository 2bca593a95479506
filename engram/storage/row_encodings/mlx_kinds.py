"""The affine quantisations that MLX has, and their names here; for headers, without numpy."""

from engram.errors import LayoutError
from engram.storage.dtypes import dtype_name

MLX_BITS = (2, 3, 4, 5, 6, 8)
MLX_GROUP_SIZES = (32, 64, 128)
# dtypes of scales and biases, with their tags.
MLX_SCALES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def mlx_name(bits: int, group_size: int, dtype: str) -> str:
    """Name the encoding of a table that MLX quantised.

    Args:
        bits: Bits of a code.
        group_size: Columns that share a scale and a bias.
        dtype: dtype of scales and biases: float32, float16 or bfloat16.

    Raises:
        InputError: The dtype is not one of tables.
        LayoutError: MLX has no such quantisation.
    """
    if (
        bits not in MLX_BITS
        or group_size not in MLX_GROUP_SIZES
        or dtype_name(dtype) not in MLX_SCALES
    ):
        raise LayoutError(
            f"MLX has no affine quantisation with bits={bits}, group_size={group_size} and scales "
            f"of {dtype}.",
            f"bits: {', '.join(map(str, MLX_BITS))}; group_size: "
            f"{', '.join(map(str, MLX_GROUP_SIZES))}; scales: {', '.join(MLX_SCALES)}.",
            bits=bits,
            group_size=group_size,
            dtype=dtype,
        )
    return f"mlx_affine_b{bits}_g{group_size}_{dtype_name(dtype)}"
