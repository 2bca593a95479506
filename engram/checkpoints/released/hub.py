"""Headers of a checkpoint on the Hugging Face hub, by range requests; no weight file is fetched."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

from engram.backbone.headers import DTYPE_BITS, INDEX_FILE, SINGLE_FILE, TensorInfo
from engram.backbone.load import read_hub_config
from engram.checkpoints.released.stored import Gathering, Stored
from engram.errors import CorruptFileError, MissingFileError

_AT_A_TIME = 8


def read_hub(name: str, revision: str | None) -> Stored:
    """Read config and headers of a repository on the hub.

    Args:
        name: Its id, such as ``deepseek-ai/DeepSeek-V4.1-Flash``.
        revision: Branch, tag or commit; the newest when None.

    Raises:
        MissingFileError: It is not there, may not be seen, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError

    config = read_hub_config(name, revision)
    # Read here, since huggingface_hub reads it only once, at import.
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    found = Gathering()

    def header(file: str) -> dict[str, TensorInfo]:
        try:
            return _header(api, name, file, revision)
        except EntryNotFoundError:
            raise MissingFileError(
                f"{file} is not in the repository, and the index names it."
            ) from None

    try:
        if api.file_exists(name, SINGLE_FILE, revision=revision):
            found.all_of(SINGLE_FILE, lambda: header(SINGLE_FILE))
        elif api.file_exists(name, INDEX_FILE, revision=revision):
            index = Path(api.hf_hub_download(name, INDEX_FILE, revision=revision)).read_bytes()
            found.indexed(index, INDEX_FILE, header, _in_parallel)
    except (CorruptFileError, MissingFileError):
        raise
    except Exception as error:  # the client's versions differ in transport, and so in exceptions
        raise MissingFileError(
            f"{name} could not be read from the hub ({type(error).__name__}: {error}).",
            "Try again, or give the model's folder.",
            model=name,
            revision=revision,
        ) from None
    return Stored(
        name=name,
        folder=None,
        config=config,
        **vars(found),
        lengths_known=False,
        read=lambda info: _read(api, name, revision, info),
    )


def _in_parallel(read: Callable[[str], None], files: list[str]) -> None:
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        list(pool.map(read, files))


def _header(api: Any, name: str, file: str, revision: str | None) -> dict[str, TensorInfo]:
    """Describe the tensors of one file; their bytes are counted from the end of the header."""
    from huggingface_hub.errors import SafetensorsParsingError

    try:
        metadata = api.parse_safetensors_file_metadata(name, file, revision=revision)
    except SafetensorsParsingError as error:
        raise CorruptFileError(f"{file} is no safetensors file: {error}", path=file) from None
    tensors = {}
    for tensor, info in metadata.tensors.items():
        (start, stop), shape = info.data_offsets, tuple(info.shape)
        bits = DTYPE_BITS.get(info.dtype)
        if bits is None or 8 * (stop - start) != bits * prod(shape):
            raise CorruptFileError(
                f"{file} is damaged: tensor {tensor!r}: {info.dtype} {list(shape)} does not fill "
                f"bytes {start} to {stop}.",
                path=file,
            )
        tensors[tensor] = TensorInfo(info.dtype, shape, start, stop, Path(file))
    return tensors


def _read(api: Any, name: str, revision: str | None, info: TensorInfo) -> bytes:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(name, str(info.path), revision=revision, endpoint=api.endpoint)

    def part(first: int, last: int) -> bytes:
        headers = {**build_hf_headers(), "range": f"bytes={first}-{last}"}
        response = get_session().get(url, headers=headers)
        hf_raise_for_status(response)
        return bytes(response.content)[: last - first + 1]

    data = 8 + int.from_bytes(part(0, 7), "little")
    return part(data + info.start, data + info.stop - 1)
