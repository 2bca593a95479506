"""Load and collisions of every head in a text, from what ``engram hash --stats --json`` printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engram.addressing.addresses import Addresses
from engram.corpus.hash.hashed_text import SCHEMA
from engram.errors import CorruptFileError, InputError, MismatchError
from engram.storage.json_files import COUNT, NUMBER, TEXT, one_of, read_json

_HEAD = {
    "order": COUNT,
    "head": COUNT,
    "load": NUMBER,
    "collisions": COUNT,
    "distinct_ngrams": COUNT,
    "kind": one_of("exact", "estimated"),
}
_SHAPE = {
    "schema": one_of(SCHEMA),
    "fingerprint": TEXT,
    "layers": [{"layer_id": COUNT, "heads": [_HEAD]}],
}


def read_collisions(file: Path, addresses: Addresses) -> dict[str, Any]:
    """Read the load and the collisions of a memory's heads in some text.

    Args:
        file: The output of ``engram hash --stats --json`` for the memory.
        addresses: The memory's constants.

    Returns:
        ``{"source": name of the file, "layers": [{"layer_id", "heads": [{"order", "head", "load",
        "collisions", "distinct_ngrams", "kind"}]}]}``, layers lowest first.

    Raises:
        MissingFileError: There is no such file.
        InputError: It holds something else.
        MismatchError: The text was hashed for another memory.
    """
    try:
        stated = read_json(file, _SHAPE)
    except CorruptFileError as error:
        raise InputError(
            f"{file} is not a result of engram hash --stats --json: {error.message}",
            "engram hash TEXT -c FOLDER --stats --json > stats.json writes one.",
            file=str(file),
        ) from None
    if stated["fingerprint"] != addresses.fingerprint:
        raise MismatchError(
            f"{file} is for another memory: its fingerprint is {stated['fingerprint'][:16]}, that "
            f"of this memory {addresses.fingerprint[:16]}.",
            "Hash the text for this one: engram hash TEXT -c FOLDER --stats --json.",
            file=str(file),
            fingerprint=stated["fingerprint"],
            expected=addresses.fingerprint,
        )
    layers = [
        {
            "layer_id": layer["layer_id"],
            "heads": [{key: head[key] for key in _HEAD} for head in layer["heads"]],
        }
        for layer in sorted(stated["layers"], key=lambda it: it["layer_id"])
    ]
    return {"source": file.name, "layers": layers}
