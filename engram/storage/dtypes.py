"""Dtypes of stored values, stated once: tags in headers, sizes, and names here, in numpy and torch.

Names of dtypes that tables can have are those of configs and messages: float64, float32, bfloat16,
float16, fp8 and int8.
"""

from dataclasses import dataclass

from engram.errors import InputError

FP8_SCALE_BLOCK = 32
Q8_0 = "q8_0"  # ggml's blocks of 32 values in 8 bits with a float16 scale, for tables in GGUF


@dataclass(frozen=True)
class Dtype:
    """One dtype of the safetensors format.

    Attributes:
        tag: Its name in headers, such as BF16.
        bits: Bits of one value.
        name: Its name here; None where the toolkit does not speak of it.
        numpy: Its name in numpy, little-endian; None where numpy has no such dtype.
        torch: Its name in torch; None where torch has no such dtype.
        scale_tag: Tag of the scales of a quantised table; None where tables of this dtype have
            none, or cannot be of it.
    """

    tag: str
    bits: int
    name: str | None = None
    numpy: str | None = None
    torch: str | None = None
    scale_tag: str | None = None


_DTYPES = (
    Dtype("F64", 64, "float64", "<f8", "float64"),
    Dtype("F32", 32, "float32", "<f4", "float32"),
    Dtype("BF16", 16, "bfloat16", None, "bfloat16"),
    Dtype("F16", 16, "float16", "<f2", "float16"),
    # One scale for 32 columns of a row, and one for a row.
    Dtype("F8_E4M3", 8, "fp8", None, "float8_e4m3fn", scale_tag="F8_E8M0"),
    Dtype("I8", 8, "int8", "i1", "int8", scale_tag="F32"),
    Dtype("F8_E8M0", 8, None, None, "float8_e8m0fnu"),
    Dtype("F8_E5M2", 8, None, None, "float8_e5m2"),
    Dtype("F8_E4M3FNUZ", 8, None, None, "float8_e4m3fnuz"),
    Dtype("F8_E5M2FNUZ", 8, None, None, "float8_e5m2fnuz"),
    Dtype("F6_E2M3", 6),
    Dtype("F6_E3M2", 6),
    Dtype("F4", 4),
    Dtype("C64", 64, None, "<c8", "complex64"),
    Dtype("BOOL", 8, None, "?", "bool"),
    Dtype("U8", 8, None, "u1", "uint8"),
    Dtype("I16", 16, None, "<i2", "int16"),
    Dtype("U16", 16, None, "<u2", "uint16"),
    Dtype("I32", 32, None, "<i4", "int32"),
    Dtype("U32", 32, None, "<u4", "uint32"),
    Dtype("I64", 64, None, "<i8", "int64"),
    Dtype("U64", 64, None, "<u8", "uint64"),
)
DTYPES = {dtype.tag: dtype for dtype in _DTYPES}
# Dtypes that tables can have, by name; those with scales; and by tag the names of those without.
TABLE_DTYPES = {dtype.name: dtype for dtype in _DTYPES if dtype.name is not None}
QUANTISED = tuple(name for name, dtype in TABLE_DTYPES.items() if dtype.scale_tag)
FLOATS = {dtype.tag: name for name, dtype in TABLE_DTYPES.items() if not dtype.scale_tag}
DTYPE_ALIASES = {
    **{dtype.tag.lower(): name for name, dtype in TABLE_DTYPES.items()},
    **{dtype.torch or name: name for name, dtype in TABLE_DTYPES.items()},
    "fp64": "float64",
    "fp32": "float32",
    "fp16": "float16",
    "half": "float16",
}


def dtype_name(text: str) -> str:
    """Return the canonical name of a table dtype: float32, bfloat16, float16, float64, fp8 or int8.

    Raises:
        InputError: The name is not a dtype that tables can have.
    """
    name = text.strip().lower().removeprefix("torch.")
    name = DTYPE_ALIASES.get(name, name)
    if name not in TABLE_DTYPES:
        raise InputError(
            f"{text!r} is not a table dtype.", f"One of {', '.join(TABLE_DTYPES)}.", value=text
        )
    return name


def gguf_dtype_name(text: str) -> str:
    """Return the canonical name of a dtype, or ``q8_0``, which tables have in GGUF alone.

    Raises:
        InputError: See `dtype_name`.
    """
    if text.strip().lower() == Q8_0:
        return Q8_0
    try:
        return dtype_name(text)
    except InputError as error:
        hint = f"{error.hint.removesuffix('.')}; in GGUF also {Q8_0}."
        raise InputError(error.message, hint, value=text) from None


def row_bytes(width: int, dtype: str) -> int:
    """Bytes of one stored table row.

    fp8 rows carry one e8m0 scale byte per 32 columns (LAYOUTS of DeepSeek-V4.1: 256 + 8 = 264);
    int8 rows carry one float32 scale.

    Args:
        width: Columns of a row.
        dtype: A dtype name or alias, see `dtype_name`.
    """
    form = TABLE_DTYPES[name := dtype_name(dtype)]
    scale_bits = DTYPES[form.scale_tag].bits if form.scale_tag else 0
    return (width * form.bits + scale_bits * scales_per_row(width, name)) // 8


def scales_per_row(width: int, dtype: str) -> int:
    """Scales that one stored row of a quantised table carries, by its columns and dtype name."""
    return -(-width // FP8_SCALE_BLOCK) if dtype == "fp8" else 1
