"""Columns of texts in tables of Arrow: what type they must have, and their values."""

from typing import Any

from engram.corpus.text.records import no_column, too_long
from engram.corpus.text.sources import Source
from engram.errors import InputError


def check_text_column(source: Source, schema: Any, column: str) -> None:
    """Check that a table has a column of texts.

    Args:
        source: Its file.
        schema: Its schema, of pyarrow.
        column: The column.

    Raises:
        InputError: There is no such column, or it does not contain strings.
    """
    from pyarrow import types

    if column not in schema.names:
        raise no_column(source, column, schema.names)
    stored = schema.field(column).type
    inner = stored.value_type if types.is_dictionary(stored) else stored
    if not (types.is_string(inner) or types.is_large_string(inner) or types.is_null(inner)):
        raise InputError(
            f"{source.name}: the column {column!r} must be strings, got {stored}.",
            "Give the column of the texts with --text-column (in Python, text_key).",
            file=source.name,
            type=str(stored),
        )


def column_values(source: Source, row: int, array: Any, limit_bytes: int) -> list[Any]:
    """Turn a piece of a column into values.

    Args:
        source: The file.
        row: Its first row, 1-based.
        array: The piece, of pyarrow.
        limit_bytes: The longest valid text.

    Returns:
        The values; errors for those that are too long.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):  # if the file's schema requires it
        array = array.cast(array.type.value_type)
    # This few bytes cannot contain long texts.
    if pa.types.is_null(array.type) or array.nbytes <= limit_bytes:
        return list(array.to_pylist())
    return [
        too_long(source, row + i, limit_bytes, None, False)
        if (length or 0) > limit_bytes
        else array[i].as_py()
        for i, length in enumerate(pc.binary_length(array).to_pylist())
    ]
