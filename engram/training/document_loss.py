"""Loss of documents, and the difference of two models with its interval.

Shapes: n documents, B rows, T tokens of a row, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engram.addressing.tokenizer_files import describe_tokenizer
from engram.arguments import checked
from engram.errors import InputError, MismatchError, UsageError
from engram.training.documents import random_bits
from engram.training.evaluating import evaluating
from engram.training.token_bytes import byte_counter

# Logits that are held in float32 at a time: 64 MiB.
_CHUNK_LOGITS = 2**24


@dataclass(frozen=True)
class DocumentLosses:
    """Loss by document.

    Attributes:
        nats: Sum over the document's counted tokens, float64 ``[n]``.
        tokens: Counted tokens, int64 ``[n]``.
        bytes: UTF-8 bytes of the counted tokens' text, int64 ``[n]``.
        bytes_are_exact: Whether the bytes are those of each token, as of a byte-level tokenizer;
            else they are those of decoded text, where a token may be part of a character.
    """

    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]
    bytes_are_exact: bool

    @property
    def nats_per_token(self) -> float:
        """Nats over counted tokens, of all documents together."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """Exponential of the nats per token."""
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """Bits over the bytes of the counted text, of all documents together."""
        return float(self.nats.sum() / math.log(2) / self.bytes.sum())


@dataclass(frozen=True)
class Difference:
    """Difference of two models on the same documents, a minus b.

    Attributes:
        nats: Difference in nats per token.
        low: Lower end of its interval.
        high: Upper end.
    """

    nats: float
    low: float
    high: float


class Window(NamedTuple):
    """A piece of a document that a model reads at once; its first token is not counted.

    Attributes:
        document: Number of the document.
        begin: Place of the first token in it.
        ids: Token ids ``[n]``, at least two.
    """

    document: int
    begin: int
    ids: NDArray[Any]


@checked(context=2, batch_tokens=1)
def document_losses(
    model: Any,
    documents: Sequence[Any],
    tokenizer: Any,
    *,
    context: int,
    batch_tokens: int = 4096,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DocumentLosses:
    """Measure the loss of documents, each by itself.

    Counted are the tokens from the second on, each given those before it in the document. A
    document longer than the context is cut into windows that follow each other, of which the first
    token is not counted.

    The model computes in eval mode without gradients, in batches of documents of like length.

    Args:
        model: A causal language model, with its memory or without.
        documents: Token ids of each ``[any]``; one of a single token has no loss.
        tokenizer: The model's tokenizer, in any form that `describe_tokenizer` knows; it counts
            bytes.
        context: Tokens T of a window.
        batch_tokens: Tokens of a batch with its padding; a batch is at least one window.
        dtype: dtype of autocast; the model's own when None.
        progress: Called with the tokens that were read so far, and their number.

    Returns:
        The losses, in the order of the documents.

    Raises:
        InputError: No document has two tokens.
    """
    file = describe_tokenizer(tokenizer)
    windows = cut_windows(documents, context)
    count_bytes, are_exact = byte_counter(file)
    nats = np.zeros(len(documents))
    tokens, text_bytes = np.zeros((2, len(documents)), np.int64)
    for window in windows:
        tokens[window.document] += len(window.ids) - 1
        text_bytes[window.document] += count_bytes(window.ids)
    done, total = 0, sum(len(window.ids) for window in windows)
    for batch, losses in read_windows(model, windows, batch_tokens=batch_tokens, dtype=dtype):
        for window, of_tokens in zip(batch, losses, strict=True):
            nats[window.document] += of_tokens.sum()
            done += len(window.ids)
        if progress is not None:
            progress(done, total)
    return DocumentLosses(nats, tokens, text_bytes, are_exact)


def paired_difference(
    a: DocumentLosses,
    b: DocumentLosses,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Compare two models on the same documents, with a paired bootstrap over documents.

    Args:
        a: Losses of one model.
        b: Losses of the other, for the same documents.
        resamples: Times that as many documents are drawn, with replacement.
        seed: Decides the draws.
        level: Share of the resampled differences inside the interval.

    Returns:
        Nats per token of a minus those of b: below zero where a is better.

    Raises:
        MismatchError: The two did not count the same tokens.
        UsageError: There is no resample, or the level is not between 0 and 1.
    """
    if not np.array_equal(a.tokens, b.tokens):
        raise MismatchError(
            "The two losses are not of the same documents: they count "
            f"{a.tokens.sum():,} tokens in {len(a.tokens):,} documents, and "
            f"{b.tokens.sum():,} in {len(b.tokens):,}.",
            "Measure both with the same documents and context.",
        )
    if resamples < 1 or not 0 < level < 1:
        raise UsageError(
            f"resamples must be at least 1 and the level between 0 and 1, got {resamples} and "
            f"{level}.",
            "Leave them out for 2000 and 0.95.",
        )
    count = len(a.tokens)
    both = np.stack([a.nats - b.nats, a.tokens.astype(np.float64)], axis=1)
    sums = np.empty((resamples, 2))
    for resample in range(resamples):
        bits = random_bits(seed, resample, count) >> np.uint64(32)
        drawn = (bits * np.uint64(count) >> np.uint64(32)).astype(np.int64)
        sums[resample] = both[drawn].sum(axis=0)
    with np.errstate(invalid="ignore"):  # a draw of documents of one token alone says nothing
        differences = sums[:, 0] / sums[:, 1]
    tail = (1 - level) / 2
    low, high = np.nanquantile(differences, [tail, 1 - tail])
    return Difference(a.nats_per_token - b.nats_per_token, float(low), float(high))


def cut_windows(documents: Sequence[Any], context: int) -> list[Window]:
    """Cut documents into windows that follow each other.

    Args:
        documents: Token ids of each ``[any]``.
        context: Tokens T of a window, at most.

    Returns:
        The windows, in the order of the documents; a last token by itself is in none.

    Raises:
        InputError: No document has two tokens.
    """
    windows = [
        Window(number, begin, np.asarray(document[begin : begin + context]))
        for number, document in enumerate(documents)
        for begin in range(0, len(document) - 1, context)
    ]
    if not windows:
        raise InputError(
            f"None of {len(documents):,} documents has two tokens: there is no loss to measure.",
            "Give longer documents.",
            documents=len(documents),
        )
    return windows


def window_starts(windows: Sequence[Window]) -> NDArray[np.bool_]:
    """Return True at the first token of every window, among the tokens of all ``[n]``."""
    ends = np.cumsum([len(window.ids) for window in windows])
    starts = np.zeros(ends[-1], dtype=bool)
    starts[0] = True
    starts[ends[:-1]] = True
    return starts


def read_windows(
    model: Any,
    windows: Sequence[Window],
    *,
    batch_tokens: int = 4096,
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[list[Window], list[NDArray[np.float64]]]]:
    """Measure the loss of every counted token, in eval mode and without gradients.

    Args:
        model: A causal language model.
        windows: The windows.
        batch_tokens: Tokens of a batch with its padding; a batch is at least one window.
        dtype: dtype of autocast; the model's own when None.

    Yields:
        The windows of a forward pass, row by row, the longest first; and the nats of each one's
        tokens from the second on ``[n - 1]``.
    """
    with evaluating(model):
        for batch in _batches(windows, batch_tokens):
            nats = _token_nats(model, [window.ids for window in batch], dtype)
            losses = [row[: len(window.ids) - 1] for window, row in zip(batch, nats, strict=True)]
            yield batch, losses


def _batches(windows: Sequence[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Divide windows into batches, the longest first: too little memory shows at once."""
    windows = sorted(windows, key=lambda window: -len(window.ids))
    first = 0
    while first < len(windows):
        last = first + max(1, batch_tokens // len(windows[first].ids))
        yield windows[first:last]
        first = last


def _token_nats(
    model: Any, rows: list[NDArray[Any]], dtype: torch.dtype | None
) -> NDArray[np.float64]:
    """Return the loss of each row's tokens from the second on ``[B, T - 1]``, zero after it."""
    lengths = torch.tensor([len(row) for row in rows])
    # No mask: a token never looks at the padding on its right, which is anything, such as the last.
    padded = [np.pad(row, (0, int(lengths.max()) - len(row)), mode="edge") for row in rows]
    ids = torch.from_numpy(np.stack(padded).astype(np.int64))
    device = model.device
    autocast = nullcontext() if dtype is None else torch.autocast(device.type, dtype)
    with autocast:
        logits: Tensor = model(input_ids=ids.to(device), use_cache=False).logits
    is_counted = torch.arange(1, ids.shape[1]) < lengths[:, None]
    row, column = is_counted.nonzero(as_tuple=True)
    nats = torch.zeros(is_counted.shape, dtype=torch.float64)
    wide = torch.promote_types(logits.dtype, torch.float32)
    chunk = max(1, _CHUNK_LOGITS // logits.shape[-1])
    for rows_of, columns in zip(row.split(chunk), column.split(chunk), strict=True):
        predicted = logits[rows_of.to(device), columns.to(device)].to(wide)
        targets = ids[rows_of, columns + 1, None].to(predicted.device)
        # Not cross_entropy: torch adds up its probabilities in float32 one after the other, which
        # loses 2e-6 of the loss over a large vocabulary; logsumexp adds them in pairs.
        said = predicted.gather(-1, targets)[:, 0].double()
        nats[rows_of, columns] = (predicted.logsumexp(dim=-1).double() - said).cpu()
    return nats.numpy()
