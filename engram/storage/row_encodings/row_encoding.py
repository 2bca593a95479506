"""`RowEncoding`: how the values of a table's row are stored in blocks of bytes.

Shapes: n rows, B blocks of all these rows, width columns of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.errors import LayoutError

# The bytes of a block in one tensor, field by field.
Part = np.dtype[np.void]


def part(*fields: tuple[Any, ...]) -> Part:
    """Describe the bytes of a block in one tensor: fields that follow each other without gaps.

    Args:
        *fields: Name, dtype and shape of each, as `numpy.dtype` takes them.
    """
    return np.dtype(list(fields))


@dataclass(frozen=True)
class RowEncoding:
    """One way to store rows.

    Attributes:
        name: Its name: that of a ggml type, or the one that files give it.
        block_values: Values that are stored together.
        parts: The bytes of a block, in each of the tensors that it is divided among.
        decode_blocks: Takes blocks ``[B]`` of each part, as records of its fields; returns float32
            ``[B, block_values]``.
        is_row: A block is a whole row: no other width can be stored.
    """

    name: str
    block_values: int
    parts: tuple[Part, ...]
    decode_blocks: Callable[..., NDArray[np.float32]]
    is_row: bool = False

    @property
    def block_bytes(self) -> int:
        """Bytes of a block, in all its tensors."""
        return sum(fields.itemsize for fields in self.parts)

    def fits(self, width: int) -> bool:
        """Say whether rows of so many values can be stored."""
        blocks, left = divmod(width, self.block_values)
        return left == 0 and (blocks == 1 if self.is_row else blocks >= 1)

    def decode(self, *tensors: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Decode rows.

        Nothing is guessed from the number of bytes: rows of MXFP4 and of lloyd4 have equally many.

        Args:
            *tensors: The bytes of the rows ``[n, bytes]``, one array for each of the `parts`.

        Returns:
            Their values ``[n, width]``. Scales that are not finite give values that are not, and
            values beyond float32 are infinite; neither warns.

        Raises:
            LayoutError: The arrays are not rows of this encoding.
            CorruptFileError: A row holds what the engine refuses to read.
        """
        rows, blocks = self._count(tensors)
        records = [
            np.ascontiguousarray(tensor).reshape(rows * blocks, fields.itemsize).view(fields)[:, 0]
            for tensor, fields in zip(tensors, self.parts, strict=True)
        ]
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.decode_blocks(*records)
        return values.reshape(rows, blocks * self.block_values)

    def _count(self, tensors: tuple[NDArray[np.uint8], ...]) -> tuple[int, int]:
        """Count rows, and the blocks of one."""
        sizes = [fields.itemsize for fields in self.parts]
        shapes = [tensor.shape for tensor in tensors]
        is_bytes = all(tensor.dtype == np.uint8 and tensor.ndim == 2 for tensor in tensors)
        if is_bytes and len(shapes) == len(sizes):
            rows, blocks = shapes[0][0], shapes[0][1] // sizes[0]
            expected = [(rows, blocks * size) for size in sizes]
            if shapes == expected and self.fits(blocks * self.block_values):
                return rows, blocks
        found = [f"{tensor.dtype} {list(tensor.shape)}" for tensor in tensors]
        stored = "a row" if self.is_row else "each block of a row"
        raise LayoutError(
            f"Rows of {self.name} have {' + '.join(map(str, sizes))} bytes for {stored} "
            f"({self.block_values} values), got {', '.join(found) or 'nothing'}.",
            "Give uint8 [rows, bytes], one array for each tensor of the table.",
            encoding=self.name,
            block_bytes=sizes,
            arrays=found,
        )
