"""Fetches a tokenizer's files from the Hugging Face hub, or from the hub's local cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engram.errors import MissingFileError
from engram.storage.hub import download, fetch, reason


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
    from huggingface_hub import errors as hub

    try:
        path, online = fetch(name, needed, revision)
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
        why = reason(error)
        problem = f"is not here and not in the hub's cache; asking the hub failed ({why})"
        hint = "Go online (HF_HUB_OFFLINE unset), or give a folder with its tokenizer.json."
    except hub.EntryNotFoundError:
        problem = f"has no {needed} on the hub"
        hint = (
            'Convert it once: python -c "from transformers import AutoTokenizer as A; '
            f"A.from_pretrained('{name}').save_pretrained('FOLDER')\", then give FOLDER."
        )
    except Exception as error:  # versions of the client differ in their exceptions
        problem = f"could not be read from the hub ({type(error).__name__}: {error})"
        hint = "Try again, or give a folder with its tokenizer.json."
    else:
        for other in wanted:
            with suppress(hub.EntryNotFoundError):
                download(name, other, revision, offline=not online)
        return path
    raise MissingFileError(
        f"The tokenizer {name} {problem}.", hint, tokenizer=name, revision=revision
    )
