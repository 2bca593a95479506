"""Tables that stay in a checkpoint's files: found there on loading, copied on saving."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import Module

from engram.errors import InputError, LayoutError, MismatchError, MissingFileError, UsageError
from engram.nn import DiskEmbedding, FileEmbedding, QuantisedDiskEmbedding, ShardedEmbedding
from engram.nn.stored_dtypes import TAGS, TORCH_DTYPES
from engram.storage.chunks import made_chunks
from engram.storage.dtypes import DTYPES, scales_per_row
from engram.storage.files import atomic_write, write_json
from engram.storage.safetensors_headers import (
    INDEX_FILE,
    SINGLE_FILE,
    TensorInfo,
    read_header,
    read_weight_map,
)
from engram.storage.safetensors_writer import TensorStream, chunks_of, header_bytes
from engram.storage.stored import read_folder_headers
from engram.tensor_names import SCALE, TABLE, layer_and_part

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
# transformers prefers model.safetensors to an index, and would miss the tables.
_RENAMED_SINGLE_FILE = "model-00001-of-00001.safetensors"


# Tables by layer id for the model under construction; None for tables in RAM. An argument of
# `from_pretrained` would also end up in the model's generation config.
IN_FILES: ContextVar[Mapping[int, DiskEmbedding] | None] = ContextVar("tables", default=None)


def tables_on_disk(
    model: str | Path, place: str, cache_rows: int, options: Mapping[str, Any]
) -> dict[int, DiskEmbedding] | None:
    """Find the tables of a checkpoint, from its headers alone.

    Args:
        model: Its folder or hub id; weights on the hub are downloaded to the local cache.
        place: ``ram`` or ``disk``.
        cache_rows: Rows of each table to keep in memory.
        options: Arguments of `from_pretrained`.

    Returns:
        The tables by layer id; None if they are to be in memory.

    Raises:
        UsageError: The place is unknown, or `cache_rows` is below 0 or given for tables in memory.
        MissingFileError: The folder has no safetensors weights, or some are missing.
        CorruptFileError: A file is torn or contradicts its header.
        LayoutError: The tables are stored in a format that cannot be read from disk.
    """
    if place not in ("ram", "disk"):
        raise UsageError(
            f'tables must be "ram" or "disk", got {place!r}.',
            'Use "ram" for tables in memory, "disk" for rows read from the checkpoint.',
            tables=place,
        )
    if cache_rows < 0:
        raise UsageError(
            f"cache_rows must be >= 0, got {cache_rows}.",
            "Use 0 for no cache, or the number of rows of each table to keep in memory.",
            cache_rows=cache_rows,
        )
    if place == "ram" and cache_rows:
        raise UsageError(
            f'cache_rows must be 0 with tables="ram", got {cache_rows}.',
            'Use tables="disk", or leave cache_rows out: tables in memory need no cache.',
            cache_rows=cache_rows,
        )
    if place == "ram":
        return None
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        passed = {name: options[name] for name in HUB_OPTIONS if name in options}
        patterns = ["*.safetensors", "*.json"]
        folder = Path(snapshot_download(str(model), allow_patterns=patterns, **passed))
    folder /= options.get("subfolder") or ""
    headers = read_folder_headers(folder)
    if headers is None:
        raise MissingFileError(
            f"{folder} has no safetensors weights to read tables from.",
            'Load it with tables="ram".',
            folder=str(folder),
        )
    tables = {}
    for name, info in headers.items():
        layer_id, part = layer_and_part(name) or (0, "")
        if part == TABLE:
            scale = headers.get(name.removesuffix(TABLE) + SCALE)
            tables[layer_id] = _open(name, info, scale, cache_rows)
    return tables


def _is_table(name: str) -> bool:
    """Whether a tensor is a table, or the scales of one."""
    found = layer_and_part(name)
    return found is not None and found[1] in (TABLE, SCALE)


def _open(name: str, info: TensorInfo, scale: TensorInfo | None, cache_rows: int) -> DiskEmbedding:
    """Open one table, and its scales if it has any."""
    form = DTYPES[info.dtype]
    if len(info.shape) == 2 and form.name and form.scale_tag and scale is not None:
        rows, width = info.shape
        if scale.shape == (rows, scales_per_row(width, form.name)):
            return QuantisedDiskEmbedding(
                info.path,
                info.start,
                *(rows, width, form.name, scale.path, scale.start),
                cache_rows=cache_rows,
            )
    dtype = TORCH_DTYPES.get(info.dtype)
    if dtype not in DiskEmbedding.stored_dtypes or len(info.shape) != 2 or scale is not None:
        scales = "no scales" if scale is None else f"scales of {scale.dtype} {list(scale.shape)}"
        raise LayoutError(
            f"{name} is {info.dtype} {list(info.shape)} with {scales}; tables on disk must be "
            "matrices of F64, F32, BF16 or F16, or of F8_E4M3 or I8 with scales.",
            'Load it with tables="ram".',
            tensor=name,
            dtype=info.dtype,
        )
    return DiskEmbedding(info.path, info.start, *info.shape, dtype, cache_rows=cache_rows)


def refuse_other_tables(names: Iterable[str], source: str) -> None:
    """Raise an error for weights with tables, if a model's tables stay in its own files.

    Args:
        names: Names of the tensors.
        source: The weights, as the subject of a sentence.

    Raises:
        MismatchError: One of them is a table.
    """
    found = sorted(filter(_is_table, names))
    if found:
        raise MismatchError(
            f"{source} contains a table ({found[0]}), but this model reads its tables from its own "
            "files.",
            'Load the model with tables="ram" to load other tables into it.',
            tensors=found,
        )


def refuse_loaded_tables(layer: Any, state: dict[str, Any], *_: Any) -> None:
    """Call `refuse_other_tables`, as a layer's hook before loading a state dict."""
    refuse_other_tables(state, "The state dict")


@contextmanager
def weights_beside_tables(
    files: Iterable[str], tables: Iterable[DiskEmbedding | FileEmbedding]
) -> Iterator[dict[str, Any]]:
    """Open weight files for loading everything except the tables.

    The mapping of transformers reserves memory for the whole file, which fails for tables larger
    than memory.

    Args:
        files: safetensors files.
        tables: The tables that stay on disk.

    Yields:
        Tensors by name, which are read when they are used inside the block.

    Raises:
        MismatchError: A file contains other tables.
    """
    from safetensors import safe_open

    homes = {rows.path for table in tables for rows, _ in table.stored.values()}
    with ExitStack() as stack:
        opened = []
        for file in files:
            weights = stack.enter_context(safe_open(file, framework="pt", backend="pread"))
            if Path(file).resolve() not in homes:
                refuse_other_tables(weights.keys(), file)
            opened.append(weights)
        yield {
            name: file.get_slice(name)
            for file in opened
            for name in file.keys()  # noqa: SIM118 (no dictionary)
            if not _is_table(name)
        }


def check_saving(
    options: Mapping[str, Any], tables: Iterable[DiskEmbedding | FileEmbedding]
) -> None:
    """Raise an error for what `save_pretrained` could not save whole.

    Args:
        options: Its options, of which some need tables in memory.
        tables: The tables in files that are to be saved.

    Raises:
        InputError: An option would write a checkpoint without its tables, or rows have been changed
            and not committed.
    """
    for table in tables:
        _ = table.stored
    for name in ("distributed_checkpoint", "push_to_hub", "variant"):
        if options.get(name):
            raise InputError(
                f"A model with tables on disk cannot be saved with {name}.",
                "Save it without that option, then upload the folder: hf upload REPO FOLDER",
                option=name,
            )


def refuse_shards(model: Module) -> None:
    """Raise an error for saving a model of whose tables this process has a part.

    Args:
        model: The model.

    Raises:
        UsageError: It has such a table.
    """
    for module in model.modules():
        if isinstance(module, ShardedEmbedding):
            raise UsageError(
                f"This process has {module.rows.count} of a table's {module.num_embeddings} rows: "
                "the saved folder would lack the others.",
                "Gather the rows of all processes: engram.training.shards.gathered_blocks",
                rows=module.rows.count,
                table_rows=module.num_embeddings,
            )


def add_tables(folder: Path, tables: Mapping[str, DiskEmbedding | FileEmbedding]) -> None:
    """Copy tables into a folder that transformers saved without them; the index is written last.

    Args:
        folder: The folder.
        tables: Tables by the names of their tensors.
    """
    single = folder / SINGLE_FILE
    if single.is_file():
        weight_map = dict.fromkeys(read_header(single), _RENAMED_SINGLE_FILE)
    else:
        weight_map = read_weight_map(folder / INDEX_FILE)
    for number, (name, table) in enumerate(tables.items(), start=1):
        file = f"engram-{number:05d}-of-{len(tables):05d}.safetensors"
        prefix = name.removesuffix("weight")
        weight_map |= {prefix + part: file for part in table.stored}
        _write_table(folder / file, prefix, table)
    if single.is_file():
        single.replace(folder / _RENAMED_SINGLE_FILE)
    headers = (read_header(folder / file) for file in sorted(set(weight_map.values())))
    total_bytes = sum(info.stop - info.start for header in headers for info in header.values())
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    write_json(folder / INDEX_FILE, index)


def _write_table(path: Path, prefix: str, table: DiskEmbedding | FileEmbedding) -> None:
    tensors = [
        TensorStream(
            prefix + part,
            TAGS[dtype],
            (rows.rows, rows.row_bytes // dtype.itemsize),
            (partial(np.asarray, block) for block in rows.blocks()),
        )
        for part, (rows, dtype) in table.stored.items()
    ]
    with atomic_write(path) as file:
        file.write(header_bytes(tensors, (", ", ": ")))
        for block in made_chunks(chunks_of(tensors)):
            file.write(block)
