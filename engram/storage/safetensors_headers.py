"""Reads what safetensors files hold from their headers alone; no weight is read."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.errors import CorruptFileError, MissingFileError
from engram.storage.dtypes import DTYPES
from engram.storage.file_names import is_weight_file
from engram.storage.gguf import refuse_gguf
from engram.storage.json_files import TEXT, Each, parse_json, read_json

_LFS, _LFS_BYTES = b"version https://git-lfs", 1024
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
INDEX_SHAPE = {"weight_map": Each(TEXT)}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as a safetensors header describes it.

    Attributes:
        dtype: Format's name of the dtype, such as "BF16".
        shape: Sizes of the dimensions.
        start: First byte, counted from the start of the file.
        stop: Byte after the last one.
        path: The file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    path: Path

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read and check the header of a safetensors file.

    Args:
        path: The file.

    Returns:
        Its tensors by name.

    Raises:
        MissingFileError: The file is not there or may not be read.
        CorruptFileError: The file is not a safetensors file, is cut short, or contradicts itself.
    """
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if file_bytes < _LFS_BYTES and path.read_bytes().startswith(_LFS):
                raise CorruptFileError(
                    f"{path} is a Git LFS pointer, not the weights that it stands for.",
                    "Get them: git lfs pull",
                    path=str(path),
                )
            refuse_gguf(path)
            if file_bytes < 8 or length > min(MAX_HEADER_BYTES, file_bytes - 8):
                raise _corrupt(path, f"a header of {length} bytes in a file of {file_bytes}")
            text = file.read(length)
    except OSError as error:
        raise MissingFileError(
            f"{path} cannot be read: {error.strerror}.", "Check the path.", path=str(path)
        ) from None
    return describe_tensors(text, path, file_bytes)


def describe_tensors(text: bytes, path: Path, file_bytes: int | None) -> dict[str, TensorInfo]:
    """Describe the tensors of a safetensors file.

    Args:
        text: Its header.
        path: The file.
        file_bytes: Its size; None where that is not known, and is not compared.

    Returns:
        The tensors by name.

    Raises:
        CorruptFileError: The header contradicts itself, or the size.
    """
    header = parse_json(text, f"The header of {path}")
    header.pop("__metadata__", None)
    data_start = end = 8 + len(text)
    tensors = {name: _tensor(path, name, entry, data_start) for name, entry in header.items()}
    # The format asks tensors to follow one another from the header to the end.
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if file_bytes is not None and info.stop > file_bytes:
            raise _corrupt(
                path, f"tensor {name!r} ends at byte {info.stop} in a file of {file_bytes}"
            )
        if info.start != end:
            what = "overlaps the tensor before it" if info.start < end else "follows unused bytes"
            raise _corrupt(path, f"tensor {name!r} {what}, at byte {info.start} instead of {end}")
        end = info.stop
    if end != (file_bytes or end):
        raise _corrupt(path, f"its tensors end at byte {end} in a file of {file_bytes}")
    return tensors


def _tensor(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        bits, shape = DTYPES[entry["dtype"]].bits, tuple(entry["shape"])
        first, last = entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(path, f"tensor {name!r} is badly described ({error!r})") from None
    whole = all(type(number) is int and number >= 0 for number in (*shape, first, last))
    if not whole or 8 * (last - first) != bits * math.prod(shape):
        what = f"{entry['dtype']} {list(shape)} does not fill bytes {first} to {last}"
        raise _corrupt(path, f"tensor {name!r}: {what}")
    return TensorInfo(entry["dtype"], shape, data_start + first, data_start + last, path)


def read_weight_map(index: Path) -> dict[str, str]:
    """Read which file an index of shards names for each tensor.

    Args:
        index: The file.

    Raises:
        CorruptFileError: It is not such an index, or names a file that is not a safetensors file of
            its folder.
    """
    weight_map: dict[str, str] = read_json(index, INDEX_SHAPE)["weight_map"]
    if foreign := [repr(file) for file in weight_map.values() if not is_weight_file(file)]:
        what = f"it names {min(foreign)}, outside of its folder or not a .safetensors file"
        raise _corrupt(index, what)
    return weight_map


def _corrupt(path: Path, what: str) -> CorruptFileError:
    return CorruptFileError(
        f"{path} is damaged: {what}.", "Download or copy it again.", path=str(path)
    )
