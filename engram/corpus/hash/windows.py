"""Cuts a corpus into windows of tokens, shared without overlap, from any position on.

Shapes: T tokens of a window, N the highest n-gram order.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import TokenizerFile
from engram.corpus.text.blocks import Block
from engram.corpus.text.readers import TextReader
from engram.corpus.text.sources import Source
from engram.corpus.tokens.fast_tokenise import WORTH_BYTES, FastEncoder
from engram.corpus.tokens.mapped_tokens import MappedTokens
from engram.corpus.tokens.tokenise import (
    check_eos,
    fast_encoder,
    token_dtype,
    tokenise,
)
from engram.errors import InputError

Document = str | Sequence[int]

_DOCUMENTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens of a window, and the tokens before it that its n-grams look back to.

    The position after it is that of the next token in the window's share of the corpus.

    Attributes:
        tokens: Token ids ``[past + T]``.
        starts: True where a document starts ``[past + T]``.
        past: Tokens before the window, at most N - 1.
        piece: Position after it: earlier pieces of the share, which are windows of a folder, else
            blocks or documents.
        token: Position after it: earlier tokens in the piece.
    """

    tokens: NDArray[Any]
    starts: NDArray[np.bool_]
    past: int
    piece: int
    token: int


def cut_stored(
    stored: MappedTokens,
    *,
    window_tokens: int,
    most_past: int,
    share: int,
    shares: int,
    piece: int,
    token: int,
) -> Iterator[Window]:
    """Cut the tokens of a folder, as one text; window i belongs to share ``i % shares``.

    Args:
        stored: The folder's tokens.
        window_tokens: Tokens T of a window.
        most_past: Tokens that an n-gram looks back: N - 1.
        share: Index of the share to read.
        shares: Number of shares.
        piece: Pieces of the share to leave out.
        token: Tokens of the next piece to leave out: none, since a piece is a window.

    Yields:
        Windows. An incomplete one at the end is left out.
    """
    windows = range(share, stored.n_tokens // window_tokens, shares)
    for done, window in enumerate(windows[piece:], piece + 1):
        begin = window * window_tokens
        past = min(begin, most_past)
        tokens, starts = stored.read(begin - past, begin + window_tokens)
        yield Window(tokens, starts, past, done, token)


class DocumentPieces:
    """Tokenises the documents of a text or an iterable in pieces that are dealt to shares in turn.

    Strings are tokenised by gigatoken if its ids are certain to equal those of `tokenizers`.

    Args:
        source: The text, whose pieces are the reader's blocks; or documents, each a piece.
        tokenizer: The tokenizer.
        add_eos: Whether every document ends with the end-of-text token.

    Raises:
        InputError: There is no end-of-text token to add.
    """

    def __init__(
        self,
        source: TextReader | Iterable[Document],
        tokenizer: TokenizerFile,
        add_eos: bool,
    ) -> None:
        check_eos(tokenizer, add_eos)
        self._source, self._tokenizer, self._add_eos = source, tokenizer, add_eos

    def cut(
        self,
        *,
        window_tokens: int,
        most_past: int,
        share: int,
        shares: int,
        piece: int,
        token: int,
    ) -> Iterator[Window]:
        """Cut windows from the pieces of one share, with the arguments and result of `cut_stored`.

        Raises:
            InputError: A document cannot be read or tokenised.
        """
        skipped, past = token, 0
        tokens: Any = np.empty(0, token_dtype(self._tokenizer.vocab_size))
        starts: Any = np.empty(0, dtype=bool)
        for current, fresh, fresh_starts in self.pieces(share, shares, piece):
            # The rest is shorter than a window, so each window ends in the new piece.
            before = len(tokens)
            tokens = np.concatenate([tokens, fresh])
            starts = np.concatenate([starts, fresh_starts])
            begin = past + skipped
            skipped = 0
            while (end := begin + window_tokens) <= len(tokens):
                past = min(begin, most_past)
                yield Window(
                    tokens[begin - past : end],
                    starts[begin - past : end],
                    past,
                    current,
                    end - before,
                )
                begin = end
            past = min(begin, most_past)
            tokens, starts = tokens[begin - past :], starts[begin - past :]

    def pieces(
        self, share: int = 0, shares: int = 1, first: int = 0
    ) -> Iterator[tuple[int, NDArray[Any], NDArray[np.bool_]]]:
        """Yield some pieces of a share at a time.

        Args:
            share: Index of the share to read.
            shares: Number of shares.
            first: Pieces of the share to leave out.

        Yields:
            The number of the first piece in the share, the token ids ``[n]``, and True where a
            document starts ``[n]``.
        """
        size_bytes = self._source.total_bytes if isinstance(self._source, TextReader) else None
        texts = _Texts(self._tokenizer, self._add_eos, (size_bytes or 0) // shares)
        mine: Any = islice(self._source, share + first * shares, None, shares)
        if isinstance(self._source, TextReader):
            for piece, block in enumerate(mine, first):
                yield piece, *texts.tokens(block)
            return
        piece = first
        while documents := list(islice(mine, _DOCUMENTS_AT_ONCE)):
            if all(isinstance(document, str) for document in documents):
                origin = Source(f"document {piece} of share {share}", None, "jsonl")
                yield piece, *texts.tokens(Block(origin, 1, documents, True, 0))
            else:
                yield piece, *self._tokens_of_ids(documents)
            piece += len(documents)

    def _tokens_of_ids(self, documents: list[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        vocab_size = self._tokenizer.vocab_size
        arrays: list[NDArray[Any]] = [np.asarray(document) for document in documents]
        for array in arrays:
            if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
                raise InputError(
                    f"A document must be a string or a flat list of token ids, got {array.dtype} "
                    f"{list(array.shape)}.",
                    "Do not mix strings and lists.",
                )
            if array.size and not 0 <= int(array.min()) <= int(array.max()) < vocab_size:
                raise InputError(
                    f"Token ids of {self._tokenizer.name} must be in 0..{vocab_size - 1}, got "
                    f"{array.min()}..{array.max()} in a document.",
                    "Use the ids of that tokenizer.",
                    vocab_size=vocab_size,
                )
        if self._add_eos:
            arrays = [np.append(array, [self._tokenizer.eos_id]) for array in arrays]
        boundaries = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return np.concatenate(arrays).astype(token_dtype(vocab_size)), _starts(boundaries)


class _Texts:
    """Tokenises strings; uses gigatoken if possible, and if there are enough to make loading pay.

    It is used in one process for one pass, and never shared with a worker or pickled.
    """

    def __init__(self, tokenizer: TokenizerFile, add_eos: bool, expected_bytes: int) -> None:
        self._tokenizer, self._add_eos = tokenizer, add_eos
        # The size of an iterable is unknown: the amount so far decides.
        self._size = expected_bytes

    @cached_property
    def _fast(self) -> FastEncoder | None:
        return fast_encoder(self._tokenizer, None)[0]

    def tokens(self, block: Block) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the token ids of some documents, and a mask of document starts."""
        fast = self._fast if self._size >= WORTH_BYTES else None
        was_given_up = fast is None or fast.problem
        self._size += sum(map(len, block.texts))
        (batch,) = tokenise([block], self._tokenizer, add_eos=self._add_eos, fast=fast)
        if fast is not None and fast.problem and not was_given_up:
            warnings.warn(fast.problem, stacklevel=2)
        return batch.tokens, _starts(batch.boundaries)


def _starts(boundaries: NDArray[np.int64]) -> NDArray[np.bool_]:
    starts = np.zeros(int(boundaries[-1]) + 1, dtype=bool)
    starts[boundaries] = True
    return starts[:-1]
