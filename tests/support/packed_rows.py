"""Packed rows as modelopt, DeepSeek and MLX write them, at random, with the values they mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
FLOAT_BYTE = {"e4m3": torch.float8_e4m3fn, "e8m0": torch.float8_e8m0fnu}


@dataclass(frozen=True)
class Packed:
    """A piece of a table.

    Attributes:
        tensors: What files hold of it, by what its name ends with.
        values: What its rows mean, float32 ``[rows, columns]``.
    """

    tensors: dict[str, torch.Tensor]
    values: torch.Tensor


def nibbles(rows: int, columns: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Bytes of two codes, the even column's in the low half, and the numbers of E2M1 they mean."""
    codes = torch.randint(16, (rows, columns), generator=generator)
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)
    return packed, E2M1[codes]


def scale_bytes(kind: str, rows: int, groups: int, generator: torch.Generator) -> torch.Tensor:
    """Scales of about one: no byte stands for no number."""
    low, high = {"e4m3": (0x30, 0x40), "e8m0": (120, 132)}[kind]
    raw = torch.randint(low, high, (rows, groups), generator=generator, dtype=torch.uint8)
    return raw.view(FLOAT_BYTE[kind])


def byte_scaled(rows, columns, group, kind, generator, factor=1.0, names=None) -> Packed:
    """Rows of four bits a value with a byte of scale for each group of columns."""
    packed, numbers = nibbles(rows, columns, generator)
    scales = scale_bytes(kind, rows, columns // group, generator)
    values = numbers * scales.float().repeat_interleave(group, 1) * factor
    weight, scale = names or ("weight", "weight_scale")
    return Packed({weight: packed, scale: scales}, values)


def as_mlx(made: Packed) -> Packed:
    """Name and type the parts as MLX does: words of 32 bits, scales as plain bytes."""
    packed, scales = made.tensors.values()
    tensors = {"weight": packed.view(torch.uint32), "scales": scales.view(torch.uint8)}
    return Packed(tensors, made.values)


def mlx_affine(rows, columns, bits, group, dtype, generator) -> Packed:
    """MLX's affine rows: codes follow each other from the lowest bit on."""
    codes = torch.randint(2**bits, (rows, columns), generator=generator)
    words = bytearray()
    for row in codes.tolist():
        number = sum(code << bits * i for i, code in enumerate(row))
        words += number.to_bytes(columns * bits // 8, "little")
    weight = torch.frombuffer(words, dtype=torch.uint8).view(torch.uint32).view(rows, -1)
    scales, biases = (
        torch.randn(rows, columns // group, generator=generator).to(dtype) for _ in range(2)
    )
    each = codes.float().view(rows, -1, group) * scales.float().unsqueeze(-1)
    values = (each + biases.float().unsqueeze(-1)).view(rows, columns)
    return Packed({"weight": weight, "scales": scales, "biases": biases}, values)
