"""Manifests of folders of results: their shapes, and the one way to read them."""

from pathlib import Path
from shlex import quote
from typing import Any, get_args

from engram.corpus.text.documents import Split
from engram.corpus.text.sources import MANIFEST
from engram.corpus.text.text_options import OnError
from engram.errors import CorruptFileError, InputError, MissingFileError
from engram.storage.file_names import exists
from engram.storage.json_files import (
    COUNT,
    FILE_NAME,
    OBJECT,
    SHA256,
    TEXT,
    Each,
    Kind,
    Maybe,
    OrNull,
    check_shape,
    find_json,
    one_of,
    read_json,
)

CORPUS_SCHEMA, HASHES_SCHEMA = "engram.corpus/1", "engram.hashes/1"
# Ids of tokens are stored in 32 bits at most.
_VOCABULARY = Kind(
    "a whole number from 1 to 2^32", lambda value: type(value) is int and 0 < value <= 2**32
)
_SIZES = {"documents": COUNT, "tokens": COUNT}
_FILE = {"name": FILE_NAME, "bytes": COUNT, "sha256": SHA256}
_SPAN = {"name": TEXT, "begin": COUNT, "end": OrNull(COUNT)}

# Folders of token shards and of hash ids: the keys for reading tokens.
TOKENS_SHAPE = {
    "tokenizer": {"name": TEXT, "sha256": SHA256, "vocab_size": _VOCABULARY},
    "shards": [{**_SIZES, "tokens_file": FILE_NAME, "documents_file": FILE_NAME}],
    "files": [_FILE],
}
CORPUS_SHAPE = {
    "schema": TEXT,
    **TOKENS_SHAPE,
    "tokenizer": {**TOKENS_SHAPE["tokenizer"], "eos_id": OrNull(COUNT)},  # type: ignore[dict-item]
    "split": one_of(*get_args(Split)),
    "text_key": OrNull(TEXT),
    "on_error": one_of(*get_args(OnError)),
    "dtype": TEXT,
    "counts": {**_SIZES, "skipped": COUNT},
    "problems": [TEXT],
    "inputs": [{"name": TEXT, "bytes": OrNull(COUNT)}],
    "units": [{**_SIZES, "sources": [_SPAN]}],
    "files": [_FILE],
}
# Folders of hash ids; those of parquet files have one file per shard.
HASHES_SHAPE = {
    "format": one_of("npy", "parquet"),
    "counts": {**_SIZES, "ids": COUNT},
    "shards": [_SIZES],
    "addresses": OBJECT,
    "token_map_file": OrNull(FILE_NAME),
    "files": [_FILE],
}
SHAPES = {CORPUS_SCHEMA: CORPUS_SHAPE, HASHES_SCHEMA: HASHES_SHAPE}
ID_SHARDS_SHAPE = {
    "shards": [{"tokens_file": FILE_NAME, "documents_file": FILE_NAME, "ids_file": FILE_NAME}]
}
# The list of files in any folder of results.
FILES_SHAPE = {"schema": TEXT, "files": [_FILE]}
DIGESTS_SHAPE = Each(SHA256, FILE_NAME)
# State of a folder that is being written.
JOB_SHAPE = {"inputs": Maybe([{"name": TEXT}]), "tokenizer": Maybe(OBJECT)}
UNIT_SHAPE = {
    **_SIZES,
    "skipped": COUNT,
    "problems": [TEXT],
    "tokens_sha256": SHA256,
    "lengths_sha256": SHA256,
    "engines": [TEXT],
    "warnings": [TEXT],
}


def find_manifest(folder: Path, schema: str, shape: Any = FILES_SHAPE) -> dict[str, Any] | None:
    """Read the manifest of a folder of results; None when it has no such manifest.

    Args:
        folder: The folder.
        schema: `schema` in the manifest.
        shape: Its shape.
    """
    manifest = find_json(folder / MANIFEST, shape, file_names=True)
    return manifest if manifest and manifest["schema"] == schema else None


def read_manifest(folder: Path, *schemas: str) -> dict[str, Any]:
    """Read the manifest of a corpus, or of a folder of hash ids.

    Args:
        folder: The folder.
        *schemas: Schemas that the manifest may have; a corpus's when none are named.

    Raises:
        MissingFileError: The folder does not exist, or it has no manifest.
        CorruptFileError: The manifest is torn, or has another schema, such as that of hash ids.
    """
    path = folder / MANIFEST
    hint = "Build it again."
    schemas = schemas or (CORPUS_SCHEMA,)
    if not exists(folder):
        raise MissingFileError.at(folder, folder=str(folder))
    if not path.is_file():
        raise MissingFileError(
            f"{folder} is not a corpus: it has no {MANIFEST}.",
            "engram corpus build TEXT -t TOKENIZER -o FOLDER writes one.",
            folder=str(folder),
        )
    manifest: dict[str, Any] = read_json(path, {"schema": TEXT}, hint=hint, file_names=True)
    if manifest["schema"] not in schemas:
        if manifest["schema"] == HASHES_SCHEMA:
            raise CorruptFileError(
                f"{folder} holds hash ids, not a corpus of tokens.",
                f"engram corpus verify {quote(str(folder))} counts and checks them.",
                folder=str(folder),
            )
        raise CorruptFileError(
            f"{path} has the schema {manifest['schema']!r}, not {' or '.join(schemas)}.",
            "Give a folder that engram corpus build wrote.",
            file=str(path),
            found=manifest["schema"],
        )
    check_shape(manifest, SHAPES[manifest["schema"]], str(path), hint=hint)
    return manifest


def read_token_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder that holds token shards as .npy files.

    Raises:
        InputError: It is no such folder, or its shards are parquet files.
    """
    path = folder / MANIFEST
    hint = "engram corpus build writes a folder of token shards, and so does engram hash -o."
    manifest: dict[str, Any] = read_json(path, {"shards": [OBJECT]}, hint=hint, file_names=True)
    if any("file" in shard for shard in manifest["shards"]):
        raise InputError(
            f"{folder} holds parquet files; only .npy shards are read in place.",
            "Write it again with --format npy.",
            folder=str(folder),
        )
    check_shape(manifest, TOKENS_SHAPE, str(path), hint=hint)
    return manifest
