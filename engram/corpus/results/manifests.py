"""Shapes of manifests: the keys that are read, and the values that they must have."""

from __future__ import annotations

from typing import get_args

from engram.corpus.text.documents import Split
from engram.corpus.text.readers import OnError
from engram.storage.json_files import (
    COUNT,
    FILE_NAME,
    OBJECT,
    TEXT,
    Each,
    Kind,
    Maybe,
    OrNull,
    one_of,
)

_SHA256 = Kind(
    "a sha256 in hexadecimal",
    lambda value: (
        isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")
    ),
)
# Ids of tokens are stored in 32 bits at most.
_VOCABULARY = Kind(
    "a whole number from 1 to 2^32", lambda value: type(value) is int and 0 < value <= 2**32
)
_SIZES = {"documents": COUNT, "tokens": COUNT}
_FILE = {"name": FILE_NAME, "bytes": COUNT, "sha256": _SHA256}
_SPAN = {"name": TEXT, "begin": COUNT, "end": OrNull(COUNT)}

# Folders of token shards and of hash ids: the keys for reading tokens.
TOKENS_SHAPE = {
    "tokenizer": {"name": TEXT, "sha256": _SHA256, "vocab_size": _VOCABULARY},
    "shards": [{**_SIZES, "tokens_file": FILE_NAME, "documents_file": FILE_NAME}],
    "files": [_FILE],
}
CORPUS_SHAPE = {
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
ID_SHARDS_SHAPE = {
    "shards": [{"tokens_file": FILE_NAME, "documents_file": FILE_NAME, "ids_file": FILE_NAME}]
}
# The list of files in any folder of results.
FILES_SHAPE = {"schema": TEXT, "files": [_FILE]}
DIGESTS_SHAPE = Each(_SHA256)
# State of a folder that is being written.
JOB_SHAPE = {"inputs": Maybe([{"name": TEXT}]), "tokenizer": Maybe(OBJECT)}
UNIT_SHAPE = {
    **_SIZES,
    "skipped": COUNT,
    "problems": [TEXT],
    "tokens_sha256": _SHA256,
    "lengths_sha256": _SHA256,
    "engine": TEXT,
    "problem": TEXT,
}
