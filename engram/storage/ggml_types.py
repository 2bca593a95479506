"""Element types of ggml, stated once: their numbers in files, names and block sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from engram.errors import InputError


@dataclass(frozen=True, slots=True)
class GgmlType:
    """One element type of ggml. A row is stored as whole blocks.

    Attributes:
        id: Its number in GGUF files.
        name: Its name, such as Q8_0.
        block_values: Values of one block.
        block_bytes: Bytes of one block.
    """

    id: int
    name: str
    block_values: int
    block_bytes: int

    def row_bytes(self, width: int) -> int | None:
        """Bytes of one row; None where the row does not end with a block.

        Args:
            width: Values of the row.
        """
        blocks, rest = divmod(width, self.block_values)
        return None if rest else blocks * self.block_bytes


# Numbers that are left out belong to types that ggml has removed. From 42 on, forks and ggml use
# the same numbers for types of different sizes, so that a file's number does not say the size.
_TYPES = (
    GgmlType(0, "F32", 1, 4),
    GgmlType(1, "F16", 1, 2),
    GgmlType(2, "Q4_0", 32, 18),
    GgmlType(3, "Q4_1", 32, 20),
    GgmlType(6, "Q5_0", 32, 22),
    GgmlType(7, "Q5_1", 32, 24),
    GgmlType(8, "Q8_0", 32, 34),
    GgmlType(9, "Q8_1", 32, 40),
    GgmlType(10, "Q2_K", 256, 84),
    GgmlType(11, "Q3_K", 256, 110),
    GgmlType(12, "Q4_K", 256, 144),
    GgmlType(13, "Q5_K", 256, 176),
    GgmlType(14, "Q6_K", 256, 210),
    GgmlType(15, "Q8_K", 256, 292),
    GgmlType(16, "IQ2_XXS", 256, 66),
    GgmlType(17, "IQ2_XS", 256, 74),
    GgmlType(18, "IQ3_XXS", 256, 98),
    GgmlType(19, "IQ1_S", 256, 50),
    GgmlType(20, "IQ4_NL", 32, 18),
    GgmlType(21, "IQ3_S", 256, 110),
    GgmlType(22, "IQ2_S", 256, 82),
    GgmlType(23, "IQ4_XS", 256, 136),
    GgmlType(24, "I8", 1, 1),
    GgmlType(25, "I16", 1, 2),
    GgmlType(26, "I32", 1, 4),
    GgmlType(27, "I64", 1, 8),
    GgmlType(28, "F64", 1, 8),
    GgmlType(29, "IQ1_M", 256, 56),
    GgmlType(30, "BF16", 1, 2),
    GgmlType(34, "TQ1_0", 256, 54),
    GgmlType(35, "TQ2_0", 256, 66),
    GgmlType(39, "MXFP4", 32, 17),
    GgmlType(40, "NVFP4", 64, 36),
    GgmlType(41, "Q1_0", 128, 18),
)
TYPES: Mapping[int, GgmlType] = MappingProxyType({each.id: each for each in _TYPES})
_BY_NAME = {each.name: each for each in _TYPES}


def type_named(name: str) -> GgmlType:
    """Return the type of a name, in lower case, too.

    Args:
        name: Such as Q8_0.

    Raises:
        InputError: ggml has no type of that name.
    """
    found = _BY_NAME.get(name.strip().upper())
    if found is None:
        raise InputError(
            f"{name!r} is not a type of ggml.", f"One of {', '.join(_BY_NAME)}.", value=name
        )
    return found
