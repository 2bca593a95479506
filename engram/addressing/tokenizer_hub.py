"""Fetches a tokenizer's files from the Hugging Face hub, or from the hub's cache here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engram.errors import MissingFileError


def fetch_files(name: str, revision: str | None, needed: str, wanted: Sequence[str]) -> Path:
    """Bring files of one repository here.

    Args:
        name: Id of the repository.
        revision: Branch, tag or commit; the newest when None.
        needed: The file without which there is nothing.
        wanted: Files that may be missing; they end up beside it.

    Returns:
        Path of the needed file.

    Raises:
        MissingFileError: The hub cannot be reached, or does not have it or show it.
    """
    from huggingface_hub import errors as hub

    try:
        path, online = _fetch(name, needed, revision)
    except hub.GatedRepoError:
        problem = "is gated"
        hint = "Accept its terms on its hub page, then `hf auth login` (or set HF_TOKEN)."
    except (hub.RepositoryNotFoundError, hub.HFValidationError):
        problem = "is not a folder or file here, and not on the hub (or private)"
        hint = "Give a folder with tokenizer.json, that file, package:NAME or a hub id."
    except hub.RevisionNotFoundError:
        problem = f"has no revision {revision!r} on the hub"
        hint = "Leave the revision out for the newest one."
    except hub.LocalEntryNotFoundError as error:
        reason = str(error.__context__ or error).strip().partition("\n")[0].rstrip(".")
        problem = f"is not here and not in the hub's cache; asking the hub failed ({reason})"
        hint = "Go online (HF_HUB_OFFLINE unset), or give a folder with its tokenizer.json."
    except hub.EntryNotFoundError:
        problem = f"has no {needed} on the hub"
        hint = (
            'Convert it once: python -c "from transformers import AutoTokenizer as A; '
            f"A.from_pretrained('{name}').save_pretrained('FOLDER')\", then give FOLDER."
        )
    except Exception as error:  # the client's versions differ in transport, and so in exceptions
        problem = f"could not be read from the hub ({type(error).__name__}: {error})"
        hint = "Try again, or give a folder with its tokenizer.json."
    else:
        for other in wanted:
            with suppress(hub.EntryNotFoundError):
                _download(name, other, revision, offline=not online)
        return path
    raise MissingFileError(
        f"The tokenizer {name} {problem}.", hint, tokenizer=name, revision=revision
    )


def _fetch(name: str, file: str, revision: str | None) -> tuple[Path, bool]:
    """Return the file, and whether the hub answered."""
    from huggingface_hub import errors as hub
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(name, file, revision=revision, endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        get_hf_file_metadata(url)
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.EntryNotFoundError):
        pass
    except Exception:
        # Asked for a file, the client would retry for half a minute before it looks at its cache.
        return _download(name, file, revision, offline=True), False
    return _download(name, file, revision, offline=False), True


def _download(name: str, file: str, revision: str | None, offline: bool) -> Path:
    from huggingface_hub import hf_hub_download

    # Read here, since huggingface_hub reads it only once, at import.
    endpoint = os.environ.get("HF_ENDPOINT")
    return Path(
        hf_hub_download(name, file, revision=revision, endpoint=endpoint, local_files_only=offline)
    )
