"""Reads .npy files that anyone may have written: mapped, never unpickled."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.errors import CorruptFileError


def read_npy(path: Path, *, hint: str) -> NDArray[Any]:
    """Map the array of an .npy file.

    Args:
        path: The file.
        hint: Next step after an error.

    Raises:
        CorruptFileError: It is not there, no .npy file, holds objects, or is shorter than its
            header says.
    """
    try:
        with warnings.catch_warnings():  # a header that numpy has to guess at
            warnings.simplefilter("error")
            array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy parses the header as Python, and raises whatever that does
        raise CorruptFileError(
            f"{path} cannot be read as an .npy file: {f'{error}'.rstrip('.')}.",
            hint,
            file=str(path),
        ) from None
    return array
