"""Turns documents into the token ids of the `tokenizers` library, in batches of documents."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import TokenizerFile
from engram.corpus.text.blocks import Block, grouped
from engram.corpus.tokens import cutting
from engram.corpus.tokens.fast_tokenise import WORTH_BYTES, FastEncoder, encode_reference
from engram.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Tokens = NDArray[np.unsignedinteger[Any]]

_BATCH_CHARACTERS = 2**19
_BATCH_TOKENS = 2**20


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Documents as token ids.

    Attributes:
        tokens: The ids of all documents, one after the other, ``[n]``.
        boundaries: The start of each document, and the end of the last, int64 ``[documents + 1]``.
        read_bytes: Bytes read of all files up to here, as stored.
    """

    tokens: Tokens
    boundaries: NDArray[np.int64]
    read_bytes: int


def _raise(error: InputError) -> None:
    raise error


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the dtype that token shards use for ids below `vocab_size`: uint16 or uint32."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def cut_batches(bounds: Any, batch_tokens: int = _BATCH_TOKENS) -> list[int]:
    """Cut documents into batches of about `batch_tokens`; return the indices of the cuts."""
    steps = bounds[1:] // batch_tokens
    cuts = np.flatnonzero(np.append(steps[1:] != steps[:-1], True)) + 1
    return [0, *cuts.tolist()]


def tokenise(
    blocks: Iterable[Block],
    tokenizer: TokenizerFile,
    *,
    add_eos: bool = False,
    fast: FastEncoder | None = None,
    wrong: Callable[[InputError], None] = _raise,
) -> Generator[TokenBatch]:
    """Encode documents, each with the ids of the whole document, without special tokens.

    Args:
        blocks: Documents, from a `TextReader`.
        tokenizer: Its `tokenizers` object uses the number of threads in the environment variable
            RAYON_NUM_THREADS, or all cores.
        add_eos: Whether every document ends with the tokenizer's end-of-text token.
        fast: The encoder with gigatoken from `fast_encoder`, or None.
        wrong: Called with the error of a document that has to be encoded in one piece and is too
            long for that, which is then left out; raises it by default.

    Yields:
        About 1 MiB of documents at a time.

    Raises:
        InputError: There is no end-of-text token to add, or a document cannot be encoded, or is too
            long to encode.
    """
    check_eos(tokenizer, add_eos)
    end = tokenizer.eos_id if add_eos else None
    encoder = tokenizer.tokenizer
    # Batches that keep all cores busy.
    encodable = _encodable(blocks, encoder, wrong)
    for batch in grouped(encodable, lambda block: sum(map(len, block.texts)), _BATCH_CHARACTERS):
        try:
            encoded = _encode(batch, encoder, fast, token_dtype(tokenizer.vocab_size), end)
        except Exception as error:
            # The library has no narrower exception.
            if type(error) is not Exception:
                raise
            raise _encode_error(batch, tokenizer, error) from error
        yield encoded


def fast_encoder(
    tokenizer: TokenizerFile, size_bytes: int | None
) -> tuple[FastEncoder | None, str]:
    """Choose the encoder of a text.

    Args:
        tokenizer: The tokenizer.
        size_bytes: Size of the text, None if unknown.

    Returns:
        gigatoken's encoder, None if `tokenizers` encodes everything; and a sentence about it, with
        the reason on a second line if gigatoken does not support the tokenizer.
    """
    if size_bytes is not None and size_bytes < WORTH_BYTES:
        return None, "Tokenised with tokenizers: the text is small."
    try:
        fast = FastEncoder(tokenizer)
    except ImportError:
        install = "pip install 'engram-toolkit[fast]'"
        return None, f"Tokenised with tokenizers: gigatoken is not installed ({install})."
    except ValueError as error:
        sentence = "Tokenised with tokenizers (gigatoken does not support this tokenizer)."
        return None, f"{sentence}\nThe reason: {error}."
    return (
        fast,
        f"Tokenised with gigatoken {version('gigatoken')}, compared with tokenizers in samples.",
    )


def check_eos(tokenizer: TokenizerFile, add_eos: bool) -> None:
    """Check that the tokenizer has an end-of-text token if one is to be added.

    Raises:
        InputError: It has none.
    """
    if add_eos and tokenizer.eos_id is None:
        raise InputError(
            f"The tokenizer {tokenizer.name} has no end-of-text token to end documents with.",
            "Do not add one: --no-eos, or add_eos=False.",
            tokenizer=tokenizer.name,
        )


def _encodable(
    blocks: Iterable[Block], encoder: Tokenizer, wrong: Callable[[InputError], None]
) -> Iterator[Block]:
    """Leave out documents that take too much memory to encode."""
    for block in blocks:
        if block.texts and max(map(len, block.texts)) <= cutting.MOST_CHARACTERS:
            yield block
            continue
        start = 0
        for index in range(len(block.texts)):
            if error := cutting.too_long_to_encode(encoder, block, index):
                wrong(error)
                if start < index:
                    yield block.part(start, index)
                start = index + 1
        if start < len(block.texts):
            yield block.part(start, len(block.texts))


def _encode(
    blocks: list[Block],
    encoder: Tokenizer,
    fast: FastEncoder | None,
    dtype: np.dtype[Any],
    end: int | None,
) -> TokenBatch:
    texts = [text for block in blocks for text in block.texts]
    tokens, lengths = encode_reference(encoder, texts) if fast is None else fast.encode(texts)
    if end is not None:
        tokens = np.insert(tokens, np.cumsum(lengths), end)
        lengths = lengths + 1
    boundaries = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return TokenBatch(tokens.astype(dtype, copy=False), boundaries, blocks[-1].read_bytes)


def _encode_error(blocks: list[Block], tokenizer: TokenizerFile, error: Exception) -> InputError:
    """Find the document that the tokenizer refused."""
    for block in blocks:
        for index, text in enumerate(block.texts):
            try:
                tokenizer.tokenizer.encode(text, add_special_tokens=False)
            except Exception:
                where = block.position(index)
                return InputError(
                    f"{where}: the tokenizer {tokenizer.name} cannot encode the document that "
                    f"starts here: {error}",
                    "Use another tokenizer, or leave the document out.",
                    document=where,
                    tokenizer=tokenizer.name,
                )
    return InputError(f"The tokenizer {tokenizer.name} failed: {error}", tokenizer=tokenizer.name)
