"""Tables that stay in a checkpoint's files: found there on loading, copied on saving."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from engram.backbone.headers import INDEX_FILE, SINGLE_FILE, read_folder_headers, read_header
from engram.errors import InputError, LayoutError, MissingFileError
from engram.files import atomic_write, write_json
from engram.nn import DiskEmbedding

TABLE_NAME = r"\.(\d+)\.engram\.multi_head_embedding\.embedding\.weight$"
_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
# transformers reads model.safetensors in preference to an index, and would miss the tables.
_RENAMED_SINGLE_FILE = "model-00001-of-00001.safetensors"


def tables_on_disk(
    model: str | Path, cache_rows: int, options: Mapping[str, Any]
) -> dict[int, DiskEmbedding]:
    """Find the tables of a checkpoint, from its headers alone.

    Args:
        model: Its folder or hub id; from the hub its weights are downloaded to the local cache.
        cache_rows: Rows of each table to keep in memory.
        options: What `from_pretrained` was called with.

    Returns:
        The tables by layer id.

    Raises:
        MissingFileError: The folder has no safetensors weights, or lacks some.
        CorruptFileError: A file is torn or contradicts its header.
        LayoutError: The tables are stored in a format that is not read from disk.
    """
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        passed = {name: options[name] for name in _HUB_OPTIONS if name in options}
        patterns = ["*.safetensors", "*.json"]
        folder = Path(snapshot_download(str(model), allow_patterns=patterns, **passed))
    folder /= options.get("subfolder") or ""
    headers = read_folder_headers(folder)
    if headers is None:
        raise MissingFileError(
            f"{folder} has no safetensors weights, from which tables could be read.",
            'Load it with tables="ram".',
            folder=str(folder),
        )
    tables = {}
    for name, info in headers.items():
        match = re.search(TABLE_NAME, name)
        if match is None:
            continue
        if info.dtype not in _DTYPES or len(info.shape) != 2:
            raise LayoutError(
                f"{name} is {info.dtype} {list(info.shape)}; tables that are read from disk are "
                f"matrices of {', '.join(_DTYPES)}.",
                'Load it with tables="ram".',
                tensor=name,
                dtype=info.dtype,
            )
        tables[int(match[1])] = DiskEmbedding(
            info.path, info.start, *info.shape, _DTYPES[info.dtype], cache_rows=cache_rows
        )
    return tables


@contextmanager
def weights_beside_tables(files: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Open weight files so that everything but the tables can be loaded.

    transformers maps them in a way that reserves memory for the whole file, which fails for tables
    larger than memory.

    Args:
        files: safetensors files.

    Yields:
        Tensors that are read when they are used, by name, inside the block.
    """
    from safetensors import safe_open

    with ExitStack() as stack:
        opened = [
            stack.enter_context(safe_open(file, framework="pt", backend="pread")) for file in files
        ]
        yield {
            name: file.get_slice(name)
            for file in opened
            for name in file.keys()  # noqa: SIM118 (no dictionary)
            if not re.search(TABLE_NAME, name)
        }


def check_saving(options: Mapping[str, Any]) -> None:
    """Refuse what `save_pretrained` cannot do for a model whose tables are on disk.

    Raises:
        InputError: An option that would write a checkpoint without its tables.
    """
    for name in ("distributed_checkpoint", "push_to_hub", "variant"):
        if options.get(name):
            raise InputError(
                f"A model whose tables are on disk cannot be saved with {name}.",
                "Save it without, then upload the folder: hf upload REPO FOLDER",
                option=name,
            )


def add_tables(folder: Path, tables: Mapping[str, DiskEmbedding]) -> None:
    """Copy tables to a folder that transformers saved without them; its index is written last.

    Args:
        folder: The folder.
        tables: Tables by the names of their tensors.
    """
    single = folder / SINGLE_FILE
    if single.is_file():
        weight_map = dict.fromkeys(read_header(single), _RENAMED_SINGLE_FILE)
    else:
        weight_map = json.loads((folder / INDEX_FILE).read_bytes())["weight_map"]
    for number, (name, table) in enumerate(tables.items(), start=1):
        weight_map[name] = f"engram-{number:05d}-of-{len(tables):05d}.safetensors"
        _write_table(folder / weight_map[name], name, table)
    if single.is_file():
        single.replace(folder / _RENAMED_SINGLE_FILE)
    files = sorted(set(weight_map.values()))
    headers = [info for file in files for info in read_header(folder / file).values()]
    total_bytes = sum(info.stop - info.start for info in headers)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    write_json(folder / INDEX_FILE, index)


def _write_table(path: Path, name: str, table: DiskEmbedding) -> None:
    rows, tags = table.file, {dtype: tag for tag, dtype in _DTYPES.items()}
    entry = {
        "dtype": tags[table.stored_dtype],
        "shape": [table.num_embeddings, table.embedding_dim],
        "data_offsets": [0, rows.rows * rows.row_bytes],
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, name: entry}).encode()
    header += b" " * (-len(header) % 8)
    with atomic_write(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for block in rows.blocks():
            file.write(block)
