"""The column of texts of a .parquet file, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from engram.corpus.sources import Source
from engram.errors import CorruptFileError, InputError, MissingPackageError

_BATCH_ROWS = 1024


def read_rows(source: Source, column: str) -> Iterator[tuple[int, list[Any], int]]:
    """Read a column of the row groups that a source stands for.

    Yields:
        The 1-based number of a row in the file, its value and those of the rows after it, and the
        bytes read so far (a fair share of the file's).

    Raises:
        InputError: There is no such column.
        CorruptFileError: The file is truncated or no .parquet.
        MissingPackageError: pyarrow is not installed.
    """
    with _open(source) as file:
        names = file.schema_arrow.names
        if column not in names:
            raise InputError(
                f"{source.name} has no column {column!r}; its columns are "
                f"{', '.join(map(repr, names[:8]))}.",
                "Name the column with --text-key.",
                file=source.name,
                columns=names,
            )
        groups = range(file.num_row_groups)[source.begin : source.end]
        firsts = [0, *accumulate(_rows_of_groups(file))]
        rows = firsts[groups.stop] - firsts[groups.start] if groups else 0
        done = 0
        batches = file.iter_batches(_BATCH_ROWS, row_groups=list(groups), columns=[column])
        for batch in batches if groups else ():
            values = batch.column(0).to_pylist()
            first = firsts[groups.start] + done + 1
            done += len(values)
            yield first, values, (source.size_bytes or 0) * done // rows


def rows_of_groups(source: Source) -> list[int]:
    """Return the number of rows of each row group; raises as `read_rows` does."""
    with _open(source) as file:
        return _rows_of_groups(file)


def _rows_of_groups(file: Any) -> list[int]:
    return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]


@contextmanager
def _open(source: Source) -> Iterator[Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackageError("pyarrow", "parquet", f"Reading {source.name}") from None
    try:
        # pyarrow takes no name that is not UTF-8, and every open file.
        with Path(source.path or "").open("rb") as stored, pq.ParquetFile(stored) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise CorruptFileError(
            f"{source.name} is truncated or not a parquet file: {error}",
            "Fetch it again, or take what can be read with --on-error skip.",
            file=source.name,
        ) from error
