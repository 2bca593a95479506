"""`gguf_tokenizer`: the tokenizer that a GGUF file holds, as the `tokenizers` library runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engram.addressing.tokenizer_files import TokenizerFile, wrap_tokenizer
from engram.checkpoints.gguf.gguf_memory import GgufMemory
from engram.checkpoints.gguf.pre_tokenizers import PRE_TOKENIZERS
from engram.errors import CorruptFileError, LayoutError, MissingFileError
from engram.storage.gguf_values import INTEGERS, GgufValue

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_KEY = "tokenizer.ggml."
_BYTE_LEVEL, _PIECES = "gpt2", "llama"
# Types of tokens.
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_SPACE = "\u2581"  # stands for a space in pieces
_MOST_LETTERS = 1024  # of a piece, all of whose parts are looked up
_GIVE = "Name the model's tokenizer: -t TOKENIZER (in Python, tokenizer=TOKENIZER)"
_SPECIAL = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id"}


def holds_tokenizer(memory: GgufMemory) -> bool:
    """Whether a file says that it holds a tokenizer."""
    return f"{_KEY}model" in memory.files.values


def gguf_tokenizer(memory: GgufMemory) -> TokenizerFile:
    """Build the tokenizer that a file holds.

    Byte-level BPE (``gpt2``) with the pre-tokenizers of `PRE_TOKENIZERS`, and SentencePiece's BPE
    (``llama``) are known. Unused tokens keep their ids.

    Args:
        memory: The file.

    Raises:
        MissingFileError: It holds none.
        LayoutError: It is of another kind.
        CorruptFileError: Its parts do not fit each other, or are of other types.
    """
    held = _Held(memory)
    kind = held.text("model")
    if kind is None:
        raise MissingFileError(f"{memory.name} holds no tokenizer.", _GIVE, path=memory.name)
    if kind == _BYTE_LEVEL:
        tokenizer = _byte_level(held, ids := held.vocabulary())
    elif kind == _PIECES:
        tokenizer = _pieces(held, ids := held.vocabulary())
    else:
        raise LayoutError(
            f"{memory.name} holds a tokenizer of the kind {kind!r}, which is not read; "
            f"{_BYTE_LEVEL} and {_PIECES} are.",
            _GIVE,
            path=memory.name,
            kind=kind,
        )
    _mark(tokenizer, held, ids)
    name = f"the tokenizer in {memory.name}"
    return wrap_tokenizer(tokenizer, name, {role: held.id(key) for role, key in _SPECIAL.items()})


@dataclass(frozen=True)
class _Held:
    """The keys of a file's tokenizer.

    Attributes:
        memory: The file.
    """

    memory: GgufMemory

    def value(self, name: str) -> GgufValue | None:
        return self.memory.files.values.get(_KEY + name)

    def text(self, name: str) -> str | None:
        value = self.value(name)
        return None if value is None else str(value.scalar())

    def id(self, name: str) -> int | None:
        value = self.value(name)
        is_id = value is not None and not value.is_array and value.kind in INTEGERS
        return int(value.scalar()) if value is not None and is_id else None

    def texts(self, name: str) -> list[str]:
        return self._present(name).texts()

    def numbers(self, name: str, count: int) -> list[Any]:
        """Return an array with an entry for each token."""
        found: list[Any] = self._present(name).numbers().tolist()
        if len(found) != count:
            raise self.damaged(f"{_KEY}{name} has {len(found):,} entries for {count:,} tokens")
        return found

    def vocabulary(self) -> dict[str, int]:
        """Return the id of each token."""
        tokens = self.texts("tokens")
        ids = {token: token_id for token_id, token in enumerate(tokens)}
        if len(ids) < len(tokens):
            token_id = next(at for at, token in enumerate(tokens) if ids[token] != at)
            other = ids[tokens[token_id]]
            raise self.damaged(f"tokens {token_id} and {other} are both {tokens[token_id]!r}")
        return ids

    def damaged(self, what: str) -> CorruptFileError:
        return CorruptFileError(
            f"{self.memory.name}: {what}: its tokenizer cannot be used.",
            _GIVE,
            path=self.memory.name,
        )

    def _present(self, name: str) -> GgufValue:
        value = self.value(name)
        if value is None:
            raise self.damaged(f"{_KEY}{name} is missing")
        return value


def _byte_level(held: _Held, ids: dict[str, int]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    name = held.text("pre")
    rule = None if name is None else PRE_TOKENIZERS.get(name)
    if rule is None:
        said = "does not say how its tokenizer cuts a text" if name is None else ""
        raise LayoutError(
            f"{held.memory.name} {said or f'cuts texts by the rule {name!r}, which is unknown'}; "
            f"known are {', '.join(PRE_TOKENIZERS)}.",
            _GIVE,
            path=held.memory.name,
            pre=name,
        )
    merges = []
    for merge in held.texts("merges"):
        left, blank, right = merge.partition(" ")
        if not (blank and left in ids and right in ids and left + right in ids):
            raise held.damaged(f"the merge {merge!r} is not of two tokens that make a third")
        merges.append((left, right))
    tokenizer = Tokenizer(BPE(ids, merges, ignore_merges=rule.takes_whole))
    if rule.composes:
        tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(it), "isolated") for it in rule.splits]
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pieces(held: _Held, ids: dict[str, int]) -> Tokenizer:
    """Build SentencePiece's BPE: of neighbours that make a piece, the best-scored merge first."""
    from tokenizers import Tokenizer, decoders, normalizers
    from tokenizers.models import BPE

    scores, types = (held.numbers(name, len(ids)) for name in ("scores", "token_type"))
    unknown = held.id("unknown_token_id")
    tokens, longest = list(ids), max(map(len, ids), default=0)
    if longest > _MOST_LETTERS:
        raise held.damaged(f"a token has {longest:,} letters, more than {_MOST_LETTERS:,}")
    if unknown is not None and not 0 <= unknown < len(tokens):
        raise held.damaged(f"{_KEY}unknown_token_id is {unknown}")
    tokenizer = Tokenizer(
        BPE(
            ids,
            _merges({it: scores[at] for it, at in ids.items() if types[at] == _NORMAL}),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = held.value("add_space_prefix")
    starts_with_space = prefix is None or bool(prefix.scalar())
    steps = [normalizers.Prepend(_SPACE)] if starts_with_space else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    back = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if starts_with_space else []
    tokenizer.decoder = decoders.Sequence([*back, *strip])
    return tokenizer


def _merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """List the pairs of pieces that make a piece, the best-scored piece first."""
    ranked = sorted(scores, key=lambda piece: -scores[piece])  # ties in the order of ids
    return [
        (piece[:at], piece[at:])
        for piece in ranked
        for at in range(1, len(piece))
        if piece[:at] in scores and piece[at:] in scores
    ]


def _mark(tokenizer: Tokenizer, held: _Held, ids: Mapping[str, int]) -> None:
    """Tell the tokenizer which tokens are taken from a text whole, before it is cut."""
    from tokenizers import AddedToken

    if held.value("token_type") is None:
        return
    types = held.numbers("token_type", len(ids))
    added = [
        AddedToken(token, normalized=False, special=kind == _CONTROL)
        for token, kind in zip(ids, types, strict=True)
        if kind in (_CONTROL, _USER_DEFINED) and token
    ]
    tokenizer.add_tokens(added)
