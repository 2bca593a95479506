"""Tensors of a memory under our names, with shapes in the letters of a legend.

Letters: D hidden size, M streams, K taps of the convolution, E memory width, R stored rows, W width
of a row, C columns (orders x heads), N highest n-gram order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Tensor:
    """A parameter of one layer's module.

    Attributes:
        name: Our name.
        shape: Its shape, such as ``M*D, E``.
        block: Rows and columns that share a scale where the layout is published quantised; None
            where it is not, or in any way.
    """

    name: str
    shape: str
    block: tuple[int, int] | None = None


# Constants of a layer's hash that files may hold as 64-bit integers: where each head's rows start,
# how many it has, and the multipliers.
CONSTANTS = {
    tensor.name: tensor
    for tensor in (Tensor("offsets", "C"), Tensor("sizes", "C"), Tensor("factors", "N"))
}


def shape_of(shape: str, values: Mapping[str, int]) -> tuple[int, ...]:
    """Compute a shape from the values of its letters."""

    def product(term: str) -> int:
        return prod(values[f] if f in values else int(f) for f in term.split("*"))

    return tuple(sum(map(product, size.split("+"))) for size in shape.split(", "))
