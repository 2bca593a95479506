"""The files beside a tokenizer.json: special tokens that they name, tokens that they add."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.storage.json_files import COUNT, OBJECT, Each, Kind, Maybe, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SETTINGS = "tokenizer_config.json"
_OLD_SETTINGS, _OLD_TOKENS, _MODEL = "special_tokens_map.json", "added_tokens.json", "config.json"
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")
# By name of a file, its content; empty for those that are missing.
Extras = dict[str, dict[str, Any]]


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
# Files beside a tokenizer.json, read for special and added tokens alone.
EXTRAS: dict[str, Any] = {
    SETTINGS: {
        **_SPECIAL,
        "extra_special_tokens": Maybe(_TOKENS),
        "added_tokens_decoder": Maybe(_BY_ID),
    },
    _MODEL: OBJECT,
    _OLD_SETTINGS: _SPECIAL,
    _OLD_TOKENS: Each(COUNT),
}


def read_extras(path: Path) -> Extras:
    """Read the files beside a tokenizer.json; old and new settings are combined like transformers'.

    Args:
        path: The tokenizer.json.

    Raises:
        CorruptFileError: One of them cannot be read.
    """
    extras: Extras = {
        name: read_json(path.with_name(name), shape, hint="Download it again.")
        if path.with_name(name).is_file()
        else {}
        for name, shape in EXTRAS.items()
    }
    if "added_tokens_decoder" not in extras[SETTINGS]:
        extras[SETTINGS] = {**extras[SETTINGS], **extras[_OLD_SETTINGS]}
    return extras


def add_tokens(tokenizer: Tokenizer, extras: Extras) -> list[str]:
    """Add the tokens that only the files beside tokenizer.json know, in the order of their ids.

    Args:
        tokenizer: As tokenizer.json defines it.
        extras: See `read_extras`; added_tokens.json counts if the settings list no added tokens.

    Returns:
        The tokens.
    """
    from tokenizers import AddedToken

    settings = extras[SETTINGS]
    older = {i: token for token, i in extras[_OLD_TOKENS].items()}
    decoder = settings.get("added_tokens_decoder") or older
    extra = settings.get("extra_special_tokens", settings.get("additional_special_tokens")) or []
    candidates = [
        *(token for _, token in sorted(decoder.items(), key=lambda item: int(item[0]))),
        *(settings[key] for key in map("{}_token".format, _ROLES) if settings.get(key) is not None),
        *(extra.values() if isinstance(extra, dict) else extra),
    ]
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    missing: dict[str, AddedToken] = {}
    for token in candidates:
        text, given = _text(token), token if isinstance(token, dict) else {"special": True}
        if text not in known | missing.keys():
            flags = {flag: given[flag] for flag in _FLAGS if flag in given}
            missing[text] = AddedToken(text, **flags)
    tokenizer.add_tokens(list(missing.values()))
    return list(missing)


def special_id(tokenizer: Tokenizer, extras: Extras, role: str) -> int | None:
    """Return the id of a special token; None when there is none.

    Args:
        tokenizer: With its added tokens.
        extras: See `read_extras`.
        role: ``pad``, ``eos`` or ``bos``.
    """
    token = extras[SETTINGS].get(f"{role}_token")
    if token is not None:
        known: int | None = tokenizer.token_to_id(_text(token))
        return known
    # If the settings have no such token, as in the hub's gpt2, the model's config does.
    number: Any = extras[_MODEL].get(f"{role}_token_id")
    number = number[0] if isinstance(number, list) and number else number
    is_stated = f"{role}_token" not in extras[SETTINGS] and isinstance(number, int)
    return number if is_stated and 0 <= number < tokenizer.get_vocab_size() else None


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
