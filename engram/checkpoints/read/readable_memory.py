"""`open_readable`: a stored memory with all that looking up its rows takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.same_memory import check_tokenizer
from engram.addressing.tokenizer_files import TokenizerFile, describe_tokenizer
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.complete_addresses import complete_addresses
from engram.checkpoints.read.find_gguf import find_gguf
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.config.engram_config import EngramConfig
from engram.config.templates import given_config
from engram.errors import MissingFileError, UsageError
from engram.storage.gguf_on_hub import HubGguf
from engram.tensor_names import TABLE


class _Rows(Protocol):
    """A table whose single rows can be read."""

    @property
    def rows(self) -> int: ...

    def read_rows(self, row_ids: NDArray[np.int64]) -> NDArray[Any]: ...


class ReadableMemory(NamedTuple):
    """A stored memory, with all that a look-up takes.

    Attributes:
        addresses: Its constants, with their token map.
        tokenizer: Its tokenizer.
        tables: Its tables by layer.
        table_dtype: dtype of the tables, or the encoding of their rows.
        is_gguf: Whether an engine runs it, with a tokenizer of its own making.
    """

    addresses: Addresses
    tokenizer: TokenizerFile
    tables: Mapping[int, _Rows]
    table_dtype: str
    is_gguf: bool = False


def open_readable(
    target: str | Path,
    config: str | Path | EngramConfig | None = None,
    tokenizer: str | Path | TokenizerFile | None = None,
    revision: str | None = None,
) -> ReadableMemory:
    """Open a memory to look up rows in; see `look_up`.

    Args:
        target: A checkpoint here, or a GGUF file here or on the hub.
        config: The memory, or its config file, where the checkpoint does not state it.
        tokenizer: The model's tokenizer, or its name or path; the memory's own when None.
        revision: Branch, tag or commit of a GGUF file on the hub.

    Raises:
        MissingFileError: Files or the tokenizer are not there.
        MismatchError: It is another tokenizer, or the constants of a GGUF file do not fit.
        UsageError: A config was given, and the files state their own; or a revision of what is
            not a GGUF file on the hub.
    """
    place = find_gguf(target, revision)
    if revision is not None and not isinstance(place, HubGguf):
        raise UsageError(f"{target} is not a GGUF file on the hub: leave --revision out.")
    if place is None:
        return _of_checkpoint(Path(target), config, tokenizer)
    if config is not None:
        raise UsageError(f"{target} states its memory: leave -c (in Python, config) out.")
    return _of_gguf(place, tokenizer)


def _of_checkpoint(
    path: Path,
    config: str | Path | EngramConfig | None,
    tokenizer: str | Path | TokenizerFile | None,
) -> ReadableMemory:
    stored = open_checkpoint(path, config=None if config is None else given_config(config))
    layers = stored.layers
    used = _tokenizer_of(stored) if tokenizer is None else describe_tokenizer(tokenizer)
    addresses = complete_addresses(stored, used)
    tables = {layer_id: tensors[TABLE] for layer_id, tensors in layers.items()}
    return ReadableMemory(addresses, used, tables, stored.table_form)


def _of_gguf(place: Path | HubGguf, tokenizer: str | Path | TokenizerFile | None) -> ReadableMemory:
    from engram.checkpoints.gguf.gguf_addresses import gguf_addresses
    from engram.checkpoints.gguf.gguf_memory import open_gguf
    from engram.checkpoints.gguf.gguf_rows import GgufRows
    from engram.checkpoints.gguf.gguf_tokenizer import gguf_tokenizer

    stored = open_gguf(place)
    addresses = gguf_addresses(stored)
    used = gguf_tokenizer(stored) if tokenizer is None else describe_tokenizer(tokenizer)
    if addresses.map_sha256 is not None:
        check_tokenizer(addresses, used)
    tables = {table.layer_id: GgufRows(table) for table in stored.tables}
    encodings = " and ".join(dict.fromkeys(table.encoding for table in stored.tables))
    return ReadableMemory(
        addresses,
        used,
        {layer_id: rows for layer_id, rows in tables.items() if layer_id is not None},
        encodings,
        is_gguf=True,
    )


def _tokenizer_of(memory: Checkpoint) -> TokenizerFile:
    try:
        return memory.load_tokenizer()
    except MissingFileError as error:
        raise MissingFileError(
            f"{memory.folder} has no tokenizer.json, and the text has to be cut into tokens.",
            "Name the model's tokenizer: -t TOKENIZER (in Python, tokenizer=TOKENIZER)",
            path=str(memory.folder),
        ) from error
