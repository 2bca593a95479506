"""The text of each token of a text: pieces that, joined together, are the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engram.addressing.tokenizer_files import TokenizerFile
from engram.corpus.text.readers import TextReader
from engram.corpus.text.text_options import TextOptions
from engram.errors import InputError


@dataclass(frozen=True)
class TokenTexts:
    """The tokens of a text, and the part of it that each stands for.

    A character that several tokens spell, as those of byte-level tokenizers do, belongs to the
    first of them; the text of the others is empty. Characters that the tokenizer drops belong to
    the token after them, or to the last.

    Attributes:
        text: The text.
        ids: Token ids.
        pieces: Where the text of each token begins and ends: each begins where the one before it
            ends.
        spans: Where the characters that a token spells, be it in part, begin and end.
    """

    text: str
    ids: tuple[int, ...]
    pieces: tuple[tuple[int, int], ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each token; joined together they are the text."""
        return tuple(self.text[begin:end] for begin, end in self.pieces)

    def ngram(self, first: int, last: int) -> str:
        """Return the text of tokens that follow each other, with characters that they share whole.

        Args:
            first: Position of the first token.
            last: Position of the last one; before the first, the text is empty.
        """
        if last < first:
            return ""
        return self.text[min(self.pieces[first][0], self.spans[first][0]) : self.pieces[last][1]]


def read_whole(file: Path) -> str:
    """Read a text file, compressed or not, as one text.

    Args:
        file: The file; ``-`` for standard input.

    Raises:
        MissingFileError: It does not exist.
        InputError: It is a folder, empty, longer than 64 MiB, or not valid UTF-8.
        UsageError: It is a file of records.
    """
    if file.is_dir():
        raise InputError(f"{file} is a folder.", "Give a file.", path=str(file))
    blocks = TextReader(file, TextOptions(split="file"))
    return "".join(text for block in blocks for text in block.texts)


def cut_text(tokenizer: TokenizerFile, text: str) -> TokenTexts:
    """Cut a text into tokens; no special tokens are added.

    Args:
        tokenizer: The tokenizer.
        text: Any text.

    Raises:
        InputError: The text has no tokens, or holds bytes that are not valid UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The text is not valid UTF-8: character {error.start} cannot be encoded.",
            "Give the text in UTF-8.",
            position=error.start,
        ) from None
    encoded = tokenizer.tokenizer.encode(text, add_special_tokens=False)
    if not encoded.ids:
        raise InputError("The text has no tokens.", "Give a text, in quotes.", text=text)
    spans = tuple(encoded.offsets)
    return TokenTexts(text, tuple(encoded.ids), tuple(_pieces(spans, len(text))), spans)


def decode_tokens(tokenizer: TokenizerFile, ids: Sequence[int]) -> str:
    """Return the text of tokens from the middle of a text.

    Args:
        tokenizer: The tokenizer.
        ids: Their ids, one at least.
    """
    decode = tokenizer.tokenizer.decode
    # After a token of its own, since decoders drop the space at the start of a text.
    first = decode([ids[0]], skip_special_tokens=False)
    both = decode([ids[0], *ids], skip_special_tokens=False)
    if both.startswith(first):
        return both[len(first) :]
    return decode(list(ids), skip_special_tokens=False)


def _pieces(spans: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """Divide a text of some length among tokens."""
    ends, done = [], 0
    for _, end in spans:
        done = max(done, end)
        ends.append(done)
    ends[-1] = length
    return list(zip([0, *ends[:-1]], ends, strict=True))
