"""Trains the tables of a model in copies of its files, which may be larger than memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engram.errors import LayoutError, MismatchError, MissingFileError, UsageError
from engram.nn import DiskEmbedding, FileEmbedding, MultiHeadEmbedding, QuantisedDiskEmbedding
from engram.nn.file_table import FileRows
from engram.nn.sharded import ShardedEmbedding, first_row_of
from engram.nn.stored_dtypes import TAGS
from engram.storage.files import Progress
from engram.storage.row_journal import Journal, recover
from engram.storage.safetensors_headers import TensorInfo, read_header
from engram.storage.table_files import copy_table
from engram.tensor_names import layer_and_part


def copy_tables(model: Any, folder: Path, progress: Progress | None = None) -> None:
    """Copy the tables of a model that was loaded with ``tables="disk"``, for `trainable_on_disk`.

    Each becomes a file ``table-LAYER.safetensors``, which appears whole; files that are there stay.

    Args:
        model: The model.
        folder: The folder, which is made.
        progress: Told bytes copied, and all bytes.

    Raises:
        UsageError: The model has no tables on disk.
        LayoutError: A table is quantised.
        CorruptFileError: A file was cut short.
        DoesNotFitError: The disk is full.
    """
    copied = [
        (path, f"{name}.embedding.weight", _described(table))
        for path, name, table in _tables(model, folder)
        if not path.exists()
    ]
    total, done = sum(info.stop - info.start for *_, info in copied), 0

    def step(some: int) -> None:
        nonlocal done
        done += some
        if progress is not None:
            progress(done, total)

    folder.mkdir(parents=True, exist_ok=True)
    for path, name, info in copied:
        copy_table(info, path, name, step)


def trainable_on_disk(model: Any, folder: Path, rank: int = 0, ranks: int = 1) -> Journal:
    """Have a model train its tables in the files that `copy_tables` made.

    Modules ``<layer>.engram.multi_head_embedding.embedding`` become `FileEmbedding`, of this
    process's rows where several share them. One process alone first recovers what one that ended
    earlier left there, so that tables and state are those of the last commit; several have to call
    `recover` in one of them.

    Args:
        model: A model that was loaded with ``tables="disk"``.
        folder: The folder.
        rank: This process.
        ranks: Number of processes.

    Returns:
        The journal that commits the changes; its `committed` tells of the last commit.

    Raises:
        UsageError: The model has no tables on disk.
        LayoutError: A table is quantised.
        MissingFileError: A file is not there.
        MismatchError: A file has no such table, or one of another shape or dtype.
        InputError: Another process trains there.
        CorruptFileError: The journal, or a file, is damaged.
    """
    tables = list(_tables(model, folder))
    found = {path: _found(path, table) for path, _, table in tables}
    if ranks == 1:
        recover(folder)
    journal = Journal(folder, rank)
    for path, name, table in tables:
        every = table.num_embeddings
        first, end = (first_row_of(it, ranks, every) for it in (rank, rank + 1))
        rows = FileRows(journal, found[path], first, end - first)
        embedding = FileEmbedding(rows).train(table.training)
        embedding.dtype = table.dtype
        embedding.weight.requires_grad_(not table.frozen)
        model.get_submodule(name).embedding = (
            embedding if ranks == 1 else ShardedEmbedding(embedding, every)
        )
    return journal


def _tables(model: Any, folder: Path) -> Iterator[tuple[Path, str, DiskEmbedding]]:
    """Yield the file of each table on disk, the name of the module around it, and the table."""
    some = False
    for name, heads in model.named_modules():
        if not isinstance(heads, MultiHeadEmbedding):
            continue
        table, place = heads.embedding, layer_and_part(f"{name}.embedding.weight")
        if not isinstance(table, DiskEmbedding) or place is None:
            continue
        if isinstance(table, QuantisedDiskEmbedding):
            raise LayoutError(
                f"{table.describe()} and is quantised: such tables cannot be trained.",
                "Store it as floats first: engram convert --dtype bfloat16",
            )
        some = True
        yield folder / f"table-{place[0]}.safetensors", name, table
    if not some:
        raise UsageError(
            f"{type(model).__name__} has no table on disk.", 'Load it with tables="disk".'
        )


def _described(table: DiskEmbedding) -> TensorInfo:
    """Describe a table as the header of its file does."""
    file = table.file
    shape = (table.num_embeddings, table.embedding_dim)
    stop = file.start_byte + file.rows * file.row_bytes
    return TensorInfo(TAGS[table.stored_dtype], shape, file.start_byte, stop, file.path)


def _found(path: Path, table: DiskEmbedding) -> TensorInfo:
    """Find the copy of a table in its file."""
    if not path.is_file():
        raise MissingFileError.at(path, "Copy the tables first: copy_tables(model, folder)")
    expected, header = _described(table), read_header(path)
    for info in header.values():
        if (info.dtype, info.shape) == (expected.dtype, expected.shape):
            return info
    raise MismatchError(
        f"{path} holds no table of {expected.dtype} {list(expected.shape)}.",
        "Train in the folder that was made for this model.",
        path=str(path),
    )
