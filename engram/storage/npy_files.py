"""Reads .npy files of whole numbers that anyone may have written: mapped, never unpickled."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.errors import CorruptFileError
from engram.units import plural


def read_npy(path: Path, axes: int, *, hint: str) -> NDArray[Any]:
    """Map the array of an .npy file.

    Args:
        path: The file.
        axes: Axes that the array must have.
        hint: Next step after an error.

    Raises:
        CorruptFileError: It is not there, no .npy file, is shorter than its header says, or holds
            something else than whole numbers in so many axes.
    """
    try:
        with warnings.catch_warnings():  # a header that numpy has to guess at
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ResourceWarning)  # an interrupt may leave it open
            array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy parses the header as Python, and raises whatever that does
        raise CorruptFileError(
            f"{path} cannot be read as an .npy file: {f'{error}'.rstrip('.')}.",
            hint,
            file=str(path),
        ) from None
    if array.ndim != axes or array.dtype.kind not in "iu":
        raise CorruptFileError(
            f"{path} holds {array.dtype} {list(array.shape)}, not whole numbers in "
            f"{plural(axes, 'axis', 'axes')}.",
            hint,
            file=str(path),
        )
    return array
