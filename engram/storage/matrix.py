"""`Matrix`: a tensor in files that is read by rows, its first dimension by all the others."""

from math import prod


class Matrix:
    """Rows and width of a tensor with a shape.

    Attributes:
        shape: Its shape.
    """

    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of the matrix."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return prod(self.shape[1:])
