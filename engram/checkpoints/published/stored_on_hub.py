"""Headers of a checkpoint on the Hugging Face hub, by range requests; no weight file is fetched."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from threading import Event
from typing import Any

from engram.checkpoints.published.stored import Gathering, Stored
from engram.errors import CorruptFileError, MissingFileError
from engram.storage.safetensors_headers import DTYPE_BITS, INDEX_FILE, SINGLE_FILE, TensorInfo

_AT_A_TIME = 8
# As much of a file as is read to find a few bytes, where the server knows no ranges.
_MOST_BYTES = 2**24


def read_hub(name: str, revision: str | None, config: dict[str, Any]) -> Stored:
    """Read the headers of a repository on the hub.

    Args:
        name: Its id, such as ``deepseek-ai/DeepSeek-V4.1-Flash``.
        revision: Branch, tag or commit; the newest when None.
        config: Its config.json.

    Raises:
        MissingFileError: It is not there, may not be seen, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError

    # Read here, since huggingface_hub reads it only once, at import.
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    found, ranges_work = Gathering(), Event()

    def header(file: str) -> dict[str, TensorInfo]:
        try:
            if not ranges_work.is_set():
                # huggingface_hub would take a whole file, however large, for the range it asked.
                _read_range(_url(api, name, file, revision), 0, 7, most_bytes=0)
                ranges_work.set()
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
    url = _url(api, name, str(info.path), revision)
    data = 8 + int.from_bytes(_read_range(url, 0, 7), "little")
    return _read_range(url, data + info.start, data + info.stop - 1)


def _url(api: Any, name: str, file: str, revision: str | None) -> str:
    from huggingface_hub import hf_hub_url

    return str(hf_hub_url(name, file, revision=revision, endpoint=api.endpoint))


def _read_range(url: str, first: int, last: int, most_bytes: int = _MOST_BYTES) -> bytes:
    """Read some bytes of a file.

    Args:
        url: The file.
        first: The first of them.
        last: The last of them.
        most_bytes: Bytes to read from the file's start where the server sends it whole instead.

    Raises:
        CorruptFileError: The server sends other bytes than were asked for, or fewer.
        ConnectionError: It sends whole files only, and this one is too long for that.
    """
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    wanted = {"range": f"bytes={first}-{last}", "accept-encoding": "identity"}
    headers = {**build_hf_headers(), **wanted}
    with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
        hf_raise_for_status(response)
        start = 0
        if response.status_code == 206:
            start = first
            stated = response.headers.get("content-range", "")
            if not stated.startswith(f"bytes {first}-"):
                raise CorruptFileError(
                    f"{url}: bytes {first} to {last} were asked for, and the answer holds "
                    f"{stated or 'some that it does not name'}.",
                    "Ask the hub itself (unset HF_ENDPOINT).",
                )
        elif last >= most_bytes:
            raise ConnectionError(f"{url}: the server sends whole files only, no ranges of them")
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if start + len(content) > last:
                break
    found = bytes(content[first - start : last + 1 - start])
    if len(found) != last + 1 - first:
        raise CorruptFileError(f"{url} ends before byte {last}.", "Download or copy it again.")
    return found
