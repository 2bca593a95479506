"""Single files of repositories on the Hugging Face hub, or of the hub's cache here; quickly or not.

Asked for a file, huggingface_hub retries for half a minute before it looks at its cache. So the hub
is asked once whether it answers at all.
"""

from __future__ import annotations

import os
from pathlib import Path

PROBE_SECONDS = 5.0


def probe(name: str, file: str, revision: str | None) -> Exception | None:
    """Ask the hub about a file: once, and for a few seconds at most.

    Args:
        name: Id of the repository.
        file: The file in it.
        revision: Branch, tag or commit; the newest when None.

    Returns:
        Why the hub cannot be asked; None when it answers, be it with a no.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(name, file, revision=revision, endpoint=_endpoint())
    try:
        get_hf_file_metadata(url, timeout=PROBE_SECONDS)
    except (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.EntryNotFoundError,
    ):
        return None
    except Exception as error:  # the client's versions differ in transport, and so in exceptions
        return error
    return None


def fetch(name: str, file: str, revision: str | None) -> tuple[Path, bool]:
    """Bring a file here, from the cache alone where the hub does not answer.

    Args:
        name: See `probe`.
        file: See `probe`.
        revision: See `probe`.

    Returns:
        Its path, and whether the hub answered.

    Raises:
        huggingface_hub.errors.LocalEntryNotFoundError: Neither the hub nor the cache has it to
            give; the cause is why the hub does not.
        Exception: Whatever else huggingface_hub raises for what the hub does not have or show.
    """
    problem = probe(name, file, revision)
    if problem is None:
        return download(name, file, revision, offline=False), True
    try:
        return download(name, file, revision, offline=True), False
    except Exception as error:
        raise error from problem


def download(name: str, file: str, revision: str | None, *, offline: bool) -> Path:
    """Bring a file here.

    Args:
        name: See `probe`.
        file: See `probe`.
        revision: See `probe`.
        offline: Only look into the cache.

    Raises:
        Exception: See `fetch`.
    """
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(
            name, file, revision=revision, endpoint=_endpoint(), local_files_only=offline
        )
    )


def reason(error: Exception) -> str:
    """Say in one line why `fetch` could not ask the hub."""
    return str(error.__cause__ or error).strip().partition("\n")[0].rstrip(".")


def _endpoint() -> str | None:
    # Read here, since huggingface_hub reads it only once, at import.
    return os.environ.get("HF_ENDPOINT")
