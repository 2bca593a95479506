"""Fetches a tokenizer's files from the Hugging Face hub, or from the hub's local cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engram.storage.hub import download, fetch, not_had


def fetch_files(name: str, revision: str | None, needed: str, wanted: Sequence[str]) -> Path:
    """Download files of one repository.

    Args:
        name: Id of the repository.
        revision: Branch, tag or commit; the newest when None.
        needed: The file that must exist.
        wanted: Files that may be missing; they are saved beside it.

    Returns:
        Path of the needed file.

    Raises:
        MissingFileError: The hub cannot be reached, or the file is missing or private.
    """
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path, online = fetch(name, needed, revision)
    except Exception as error:  # versions of the client differ in their exceptions
        raise not_had(
            error,
            f"The tokenizer {name}",
            needed,
            revision,
            folder="a folder with its tokenizer.json",
            unknown="Give a folder with tokenizer.json, that file, package:NAME or a hub id.",
            absent='Convert it once: python -c "from transformers import AutoTokenizer as A; '
            f"A.from_pretrained('{name}').save_pretrained('FOLDER')\", then give FOLDER.",
            tokenizer=name,
        ) from None
    for other in wanted:
        with suppress(EntryNotFoundError):
            download(name, other, revision, offline=not online)
    return path
