"""`TrainingDocuments`: the documents of a corpus or a text, and the part that is held out."""

import copy
from collections.abc import Iterable
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import describe_tokenizer
from engram.arguments import checked
from engram.corpus.foreign.find_tokens import find_tokens
from engram.corpus.hash.windows import Document, DocumentPieces
from engram.corpus.text.readers import TextReader
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens.mapped_tokens import MappedTokens
from engram.corpus.tokens.tokenise import token_dtype
from engram.errors import InputError, UsageError

MAX_TEXT_BYTES = 2**31
# Key of the random bits that choose what is held out; those of an epoch's order have its number.
_HELD_OUT = 2**64 - 1


class TrainingDocuments:
    """The documents of a corpus or a text by number, as token ids.

    A corpus is mapped and read where it is needed. A text is tokenised once, into memory, and its
    documents without tokens are left out.

    Whether a document is held out depends on its number, the seed and the share alone, so that
    every rank and every run with the same source agrees. Documents of one token are of no use in
    training and have no loss; they may be on either side.

    Args:
        source: A corpus of tokens (see `find_tokens`), or a text (file, folder or reader), or an
            iterable of documents, each a string or a list of token ids.
        tokenizer: The model's tokenizer, in any form that `describe_tokenizer` knows.
        options: How a text is read: what ends a document, the key of its text, and whether the
            end-of-text token is added.
        held_out_share: Share of the documents to hold out, above 0 and below 1; at least one
            document of two tokens is held out, and one is left for training. None holds all of them
            out, for a text that nothing is trained on.
        seed: Decides what is held out.
        check_digests: Whether to compare the sha256 of every file of a corpus first.

    Attributes:
        boundaries: Start of each document among all tokens, and the end of the last, int64
            ``[documents + 1]``.
        sha256: Digest of the tokens and boundaries; for a folder of token shards, of those of its
            files.
        held_out: Numbers of the held-out documents of at least two tokens, in random order, int64.
        training: Numbers of the documents for training, in the order of the source, int64.
        note: A note for people on the source's tokenizer; None when there is nothing to say.

    Raises:
        UsageError: An option has no effect on this source, or the share is not between 0 and 1.
        InputError: The source cannot be read, is too large to tokenise in memory, or has less than
            two documents of at least two tokens; with a share of None, none.
        MismatchError: The corpus was made with another tokenizer.
        CorruptFileError: A file of the corpus is missing or changed.
        MissingFileError: The source does not exist.
    """

    @checked(seed=0)
    def __init__(
        self,
        source: str | Path | TextReader | Iterable[Document],
        tokenizer: Any,
        *,
        options: TextOptions | None = None,
        held_out_share: float | None = 0.05,
        seed: int = 0,
        check_digests: bool = False,
    ) -> None:
        _check_share(held_out_share)
        file = describe_tokenizer(tokenizer)
        options = TextOptions() if options is None else options
        self._stored: MappedTokens | None = None
        self.note: str | None = None
        found = find_tokens(source, options.text_key) if isinstance(source, (str, Path)) else None
        if found is not None:
            found.check_options(options)
            self._stored = found.open(file, check_digests=check_digests)
            self.boundaries = self._stored.boundaries()
            self.note = found.note(file)
        else:
            if isinstance(source, (str, Path)):
                source = TextReader(source, options)
            pieces = DocumentPieces(source, file, options.adds_eos)
            size_bytes = source.total_bytes if isinstance(source, TextReader) else None
            self._tokens, self.boundaries = _in_memory(pieces, size_bytes, file.vocab_size)
        self.training, self.held_out = _divide(self.boundaries, held_out_share, seed)

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.boundaries) - 1

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self):,} documents, {self.n_tokens:,} tokens>"

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.boundaries[-1])

    @property
    def total_bytes(self) -> int:
        """Bytes of the tokens, as stored or in memory."""
        return self._tokens.nbytes if self._stored is None else self._stored.total_bytes

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every document ``[documents]``."""
        return np.diff(self.boundaries)

    @cached_property
    def sha256(self) -> str:
        """Digest of the tokens and boundaries, or of token shards' names and digests."""
        if self._stored is not None:
            return self._stored.sha256
        digest = sha256(self.boundaries.astype("<i8").data)
        digest.update(self._tokens.astype(self._tokens.dtype.newbyteorder("<")).data)
        return digest.hexdigest()

    def divided(self, held_out_share: float | None, seed: int = 0) -> "TrainingDocuments":
        """Return the same documents with another part held out; tokens are not copied.

        Args:
            held_out_share: See the class.
            seed: See the class.

        Raises:
            UsageError: See the class.
            InputError: See the class.
        """
        _check_share(held_out_share)
        other = copy.copy(self)
        other.training, other.held_out = _divide(self.boundaries, held_out_share, seed)
        return other

    def read(self, begin: int, end: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read tokens begin..end-1 of all documents, one after the other.

        Returns:
            The token ids ``[n]``, and True where a document starts ``[n]``.
        """
        if self._stored is not None:
            return self._stored.read(begin, end)
        starts = np.zeros(end - begin, dtype=bool)
        low, high = np.searchsorted(self.boundaries, [begin, end])
        starts[self.boundaries[low:high] - begin] = True
        return self._tokens[begin:end], starts

    def tokens(self, number: int, begin: int = 0, end: int | None = None) -> NDArray[Any]:
        """Read a document, or tokens begin..end-1 of it; token ids ``[n]``, uint16 or uint32."""
        first, last = int(self.boundaries[number]), int(self.boundaries[number + 1])
        begin, end = first + begin, last if end is None else min(first + end, last)
        if self._stored is not None:
            return self._stored.read(begin, end)[0]
        return self._tokens[begin:end]

    def read_held_out(self, most_tokens: int | None = None) -> list[NDArray[Any]]:
        """Read held-out documents.

        Args:
            most_tokens: Read documents in the order of `held_out` until they have so many tokens;
                all of them when None.

        Returns:
            Token ids of each ``[n]``; at least one document.
        """
        numbers = self.held_out
        if most_tokens is not None:
            ends = np.cumsum(self.lengths[numbers])
            numbers = numbers[: max(1, int(np.searchsorted(ends, most_tokens, side="right")))]
        return [self.tokens(number) for number in numbers]


def random_bits(seed: int, key: int, count: int) -> NDArray[np.uint64]:
    """Return random numbers, of which number i depends on seed, key and i alone.

    numpy promises that the raw numbers of a bit generator stay the same in every release.

    Args:
        seed: Any; what is above 64 bits does not count.
        key: Below 2^64.
        count: How many.
    """
    bits: NDArray[np.uint64] = np.random.Philox(key=seed % 2**64 | key << 64).random_raw(count)
    return bits


def _in_memory(
    pieces: DocumentPieces, size_bytes: int | None, vocab_size: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Tokenise everything.

    Args:
        pieces: The documents.
        size_bytes: Bytes of the text as stored; None if unknown.
        vocab_size: Length of the tokenizer.

    Returns:
        The token ids ``[n]``, and the boundaries of documents.
    """
    dtype = token_dtype(vocab_size)
    _check_size(size_bytes or 0)
    parts: list[NDArray[Any]] = [np.empty(0, dtype)]
    starts: list[NDArray[np.int64]] = []
    done = 0
    for _, tokens, are_starts in pieces.pieces():
        parts.append(tokens)
        starts.append(np.flatnonzero(are_starts) + done)
        done += len(tokens)
        _check_size(done * dtype.itemsize)
    return np.concatenate(parts), np.concatenate([*starts, [done]]).astype(np.int64)


def _check_size(size_bytes: int) -> None:
    if size_bytes > MAX_TEXT_BYTES:
        raise InputError(
            f"A text of up to {MAX_TEXT_BYTES / 2**30:g} GiB is tokenised in memory, got "
            f"{size_bytes / 2**30:.1f} GiB.",
            "engram corpus build TEXT -t TOKENIZER -o FOLDER tokenises it on disk: give FOLDER.",
            size_bytes=size_bytes,
            most_bytes=MAX_TEXT_BYTES,
        )


def _check_share(share: float | None) -> None:
    if share is not None and not 0 < share < 1:
        raise UsageError(
            f"The held-out share must be above 0 and below 1, got {share}.",
            "Give a share such as 0.05.",
            held_out_share=share,
        )


def _divide(
    boundaries: NDArray[np.int64], share: float | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the documents for training, and of those held out."""
    countable = np.flatnonzero(np.diff(boundaries) >= 2)
    bits = random_bits(seed, _HELD_OUT, len(boundaries) - 1)
    order = countable[np.argsort(bits[countable], kind="stable")]
    if share is None:
        if not len(countable):
            raise InputError(
                f"None of {len(boundaries) - 1:,} documents has two tokens: there is no loss to "
                "measure.",
                "Give longer documents.",
                documents=len(boundaries) - 1,
            )
        return countable[:0], order
    if len(countable) < 2:
        raise InputError(
            "At least two documents of two tokens are needed, one for training and one held out; "
            f"got {len(countable)} of {len(boundaries) - 1:,}.",
            "Give more text, or split it otherwise: --split paragraph or line.",
            documents=len(boundaries) - 1,
        )
    is_held_out = bits < np.uint64(share * 2**64)
    is_held_out[order[0]], is_held_out[order[-1]] = True, False
    return np.flatnonzero(~is_held_out), order[is_held_out[order]]
