"""`ForeignTokens`: tokens of another tool's corpus, checked against the tokenizer when read."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import TokenizerFile
from engram.corpus.tokens.mapped_tokens import MappedTokens, TokenShard
from engram.corpus.tokens.tokenise import token_dtype
from engram.errors import CorruptFileError, InputError, MismatchError
from engram.units import plural

# The longest document of a text takes 64 MiB, and a token at least a byte.
MAX_DOCUMENT_TOKENS = 2**26
_BLOCK_TOKENS = 2**22
_AGAIN = "Copy the file again, or write it again."


class ForeignTokens(MappedTokens):
    """The tokens of a corpus of another tool, as ids of a tokenizer.

    Such a corpus does not say which tokenizer it was made with, so that only ids that the tokenizer
    does not have can tell that it was another one. They are looked for in all tokens that are read,
    and in every one where `sha256` is asked for.

    Args:
        folder: The corpus, in messages.
        shards: Its shards, of whole numbers of any type.
        tokenizer: The tokenizer.

    Raises:
        InputError: It has no tokens, or a document is longer than any of a text can be.
    """

    def __init__(
        self, folder: Path, shards: Sequence[TokenShard], tokenizer: TokenizerFile
    ) -> None:
        super().__init__(folder, shards)
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        if not self.n_tokens:
            raise InputError(f"{folder} has no tokens.", "Give a corpus that has.")
        for shard in shards:
            _check_lengths(shard)

    @cached_property
    def sha256(self) -> str:  # type: ignore[override]
        """Digest of tokens and documents, that of a text which gives the same ones.

        Everything is read for it, and every token is checked.

        Raises:
            MismatchError: A token is not one of the tokenizer.
            CorruptFileError: A token is negative.
        """
        digest = sha256(self.boundaries().astype("<i8", copy=False).data)
        for shard in self._shards:
            for begin in range(0, len(shard.tokens), _BLOCK_TOKENS):
                ids = self._ids(shard, shard.tokens[begin : begin + _BLOCK_TOKENS])
                digest.update(np.ascontiguousarray(ids, self._dtype.newbyteorder("<")).data)
        return digest.hexdigest()

    def _ids(self, shard: TokenShard, part: NDArray[Any]) -> NDArray[Any]:
        if not len(part):
            return np.empty(0, self._dtype)
        low, high, vocab_size = int(part.min()), int(part.max()), self._tokenizer.vocab_size
        if low < 0:
            raise CorruptFileError(
                f"{shard.name} is damaged: {low:,} is not a token id.", _AGAIN, file=shard.name
            )
        if high >= vocab_size:
            raise MismatchError(
                f"{shard.name} has the token {high:,}; those of {self._tokenizer.name} are below "
                f"{vocab_size:,}.",
                "Its tokens were made with another tokenizer: use that one.",
                file=shard.name,
                token_id=high,
                vocab_size=vocab_size,
            )
        return part.astype(self._dtype, copy=False)


def map_array(path: Path, dtype: str, offset_bytes: int = 0, count: int = -1) -> NDArray[Any]:
    """Map a part of a file as an array, which is read where it is needed.

    Args:
        path: The file.
        dtype: Type of its values, with their byte order.
        offset_bytes: First byte.
        count: Values; -1: all whole ones up to the end.
    """
    if count < 0:
        count = max(path.stat().st_size - offset_bytes, 0) // np.dtype(dtype).itemsize
    if not count:  # an empty map is an error
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r", offset_bytes, (count,)).view(np.ndarray)


def pieces(length: int) -> Iterator[slice]:
    """Cut a long array, so that what is computed of it takes little memory."""
    for begin in range(0, length, _BLOCK_TOKENS):
        yield slice(begin, min(begin + _BLOCK_TOKENS, length))


def damaged(path: Path, problem: str, hint: str = _AGAIN, **details: Any) -> CorruptFileError:
    """Return the error for a file that contradicts itself or another one.

    Args:
        path: The file.
        problem: What is wrong, as the rest of a sentence.
        hint: The next step.
        **details: Values for programs.
    """
    return CorruptFileError(f"{path} is damaged: {problem}.", hint, file=str(path), **details)


def _check_lengths(shard: TokenShard) -> None:
    longest = int(np.diff(shard.bounds).max(initial=0))
    if longest > MAX_DOCUMENT_TOKENS:
        raise InputError(
            f"{shard.name} has a document of {plural(longest, 'token')}; "
            f"{MAX_DOCUMENT_TOKENS:,} are the most.",
            "Cut its documents smaller. In a shard of llm.c they begin with the tokenizer's "
            "start-of-text token: give the tokenizer that it was made with.",
            file=shard.name,
            tokens=longest,
        )
