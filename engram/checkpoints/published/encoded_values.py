"""`EncodedValues`: a released matrix of packed rows, with all tensors that it is spread over."""

from collections.abc import Sequence
from dataclasses import dataclass

from engram.checkpoints.published.family import Released
from engram.checkpoints.published.formats import EXL3, MLX_TAG, format_of
from engram.errors import LayoutError
from engram.layouts.dialect import Key
from engram.storage.dtypes import DTYPES, FLOATS
from engram.storage.row_encodings.fp8_rows import TWO_TENSORS
from engram.storage.row_encodings.mlx_kinds import mlx_name
from engram.storage.safetensors_headers import TensorInfo

# Encodings by bits of a value, its group of columns and the dtype of the group's scale.
_BYTE_SCALED = {
    (4, 32, "F8_E8M0"): "fp4_e8m0_32",
    (8, 32, "F8_E8M0"): TWO_TENSORS,
    (4, 16, "F8_E4M3"): "nvfp4",
}
# MLX stores scales of a byte as U8: what they are follows from bits and group.
_MLX_SCALES = {(bits, group): tag for bits, group, tag in _BYTE_SCALED}


@dataclass(frozen=True)
class EncodedValues:
    """A matrix of packed rows.

    Attributes:
        encoding: Name of the encoding of its rows.
        row_bytes: Bytes of a row in each of the tensors that it is divided among.
        parts: The pieces of each of these tensors, in the encoding's order.
        factors: One float32 that the whole is multiplied by, or one for each piece, or none.
    """

    encoding: str
    row_bytes: tuple[int, ...]
    parts: tuple[tuple[TensorInfo, ...], ...]
    factors: tuple[TensorInfo, ...] = ()


def encoded_values(found: Released, key: Key, columns: int) -> EncodedValues | None:
    """Tell how the rows of a released tensor are encoded.

    Args:
        found: The release.
        key: The tensor; its values are in the files.
        columns: Values of a row.

    Returns:
        Its encoding and parts; None for a tensor whose values are elements.

    Raises:
        LayoutError: Its rows are packed in a way that is not read.
    """
    values, scales = found.infos(key), found.infos(key, "scale")
    form = format_of(values[0], columns)
    if form is None or not form.packed:
        return None
    name = found.names(key)[0]
    if form.name.startswith(EXL3):
        raise LayoutError(
            f"{name} holds rows of EXL3's trellis ({form.name}): they are counted, not decoded.",
            "Give the release that it was made from, or its conversion to fp8, NVFP4, MLX or GGUF.",
            tensor=name,
            format=form.name,
        )
    if not scales:
        raise LayoutError(
            f"{name} holds packed rows ({form.name}), and their scales are missing.",
            f"Check it: engram verify {found.stored.name}",
            tensor=name,
        )
    biases, factors = found.infos(key, "bias"), found.infos(key, "global_scale")
    encoding, group = _encoding(name, values[0], columns, scales[0], biases[:1])
    parts = tuple(tuple(infos) for infos in (values, scales, biases) if infos)
    bits = _bits(values[0], columns)
    scale_bytes = columns // group * DTYPES[scales[0].dtype].bits // 8
    row_bytes = (columns * bits // 8, *[scale_bytes] * (len(parts) - 1))
    made = EncodedValues(encoding, row_bytes, parts, tuple(factors))
    _demand_parts(name, made, is_packed_by_mlx=values[0].dtype == MLX_TAG)
    return made


def _bits(values: TensorInfo, columns: int) -> int:
    return 8 * (values.stop - values.start) // max(1, values.shape[0] * columns)


def _encoding(
    name: str, values: TensorInfo, columns: int, scales: TensorInfo, bias: Sequence[TensorInfo]
) -> tuple[str, int]:
    """Name the encoding of packed rows, and say how many columns share a scale."""
    bits = _bits(values, columns)
    groups = scales.shape[1] if len(scales.shape) == 2 else 0
    size, left = divmod(columns, groups) if groups else (0, 0)
    is_affine = values.dtype == MLX_TAG and any(it.dtype == scales.dtype for it in bias)
    if left == 0 and is_affine and scales.dtype in FLOATS:
        return mlx_name(bits, size, FLOATS[scales.dtype]), size
    tag = scales.dtype
    if tag == "U8":
        tag = _MLX_SCALES.get((bits, size), tag) if values.dtype == MLX_TAG else "F8_E8M0"
    if left or bias or (bits, size, tag) not in _BYTE_SCALED or values.dtype == "I8":
        biases = "".join(f", biases {it.dtype} {list(it.shape)}" for it in bias)
        raise LayoutError(
            f"{name} is {values.dtype} {list(values.shape)} for {columns} columns, with scales "
            f"{scales.dtype} {list(scales.shape)}{biases}: packed rows of that kind are unknown.",
            "Known are NVFP4 and FP4 of modelopt and DeepSeek, and MLX's affine, mxfp4, mxfp8 and "
            "nvfp4.",
            tensor=name,
            bits=bits,
            group_size=size,
            scales=scales.dtype,
        )
    return _BYTE_SCALED[bits, size, tag], size


def _demand_parts(name: str, made: EncodedValues, is_packed_by_mlx: bool) -> None:
    """Compare the tensors of packed rows with each other.

    Raises:
        LayoutError: They are not parts of the same rows.
    """
    pieces = len(made.parts[0])
    for row_bytes, infos in zip(made.row_bytes, made.parts, strict=True):
        rows = [(info.shape[0], (info.stop - info.start)) for info in infos if info.shape]
        fits = [(info.shape[0], info.shape[0] * row_bytes) for info in made.parts[0]]
        tags = {info.dtype for info in infos}
        if rows != fits or len(tags) != 1:
            raise LayoutError(
                f"{name}: {_shown(infos)} does not belong to rows of {made.encoding} in "
                f"{pieces} tensors.",
                "Every piece of the values has its own of the same number of rows.",
                tensor=name,
                encoding=made.encoding,
            )
    needed = made.encoding == "nvfp4" and not is_packed_by_mlx
    right = (1, pieces) if needed else (0,)
    is_float = all(info.dtype == "F32" and info.size == 1 for info in made.factors)
    if len(made.factors) not in right or not is_float:
        wanted = "one F32 for all, or one a piece" if needed else "none"
        raise LayoutError(
            f"{name} ({made.encoding}) has weight_scale_2 {_shown(made.factors) or 'missing'}"
            f", expected {wanted}.",
            "Rows of NVFP4 are worth nothing without it: download the checkpoint again.",
            tensor=name,
            encoding=made.encoding,
        )


def _shown(infos: Sequence[TensorInfo]) -> str:
    return " + ".join(f"{info.dtype} {list(info.shape)}" for info in infos[:3]) + (
        f" + {len(infos) - 3} more" if len(infos) > 3 else ""
    )
