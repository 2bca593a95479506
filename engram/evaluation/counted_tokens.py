"""`CountedTokens`: the tokens of some documents whose losses are compared, in one order.

Shapes: n counted tokens, D documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import TokenizerFile
from engram.training.document_loss import DocumentLosses, Window, cut_windows, read_windows
from engram.training.token_bytes import byte_counter


class CountedTokens:
    """The counted tokens of documents: of every window the second and those after it.

    Args:
        documents: Token ids of each ``[any]``.
        context: Tokens of a window.
        tokenizer: Counts their bytes.

    Attributes:
        windows: The windows, in the order of the documents.
        ids: Each counted token's id ``[n]``.
        before: The id of the token before it, at which it is predicted ``[n]``.
        positions: Tokens before it in its window, at least one ``[n]``.
        document: Number of its document ``[n]``.
        document_bytes: UTF-8 bytes of the counted tokens of each document ``[D]``.
        bytes_are_exact: See `DocumentLosses`.

    Raises:
        InputError: No document has two tokens.
    """

    def __init__(
        self, documents: Sequence[NDArray[Any]], context: int, tokenizer: TokenizerFile
    ) -> None:
        self.windows = cut_windows(documents, context)
        count_bytes, self.bytes_are_exact = byte_counter(tokenizer)
        sizes = [len(window.ids) - 1 for window in self.windows]
        firsts = np.cumsum([0, *sizes[:-1]]).tolist()
        self._slices = {
            (window.document, window.begin): slice(first, first + size)
            for window, first, size in zip(self.windows, firsts, sizes, strict=True)
        }
        self.ids = np.concatenate([window.ids[1:] for window in self.windows]).astype(np.int64)
        self.before = np.concatenate([window.ids[:-1] for window in self.windows]).astype(np.int64)
        self.positions = np.concatenate([np.arange(1, size + 1) for size in sizes])
        numbers = np.array([window.document for window in self.windows])
        self.document = np.repeat(numbers, sizes)
        self.document_tokens = np.bincount(self.document, minlength=len(documents))
        self.document_bytes = np.zeros(len(documents), np.int64)
        for window in self.windows:
            self.document_bytes[window.document] += count_bytes(window.ids)

    def __len__(self) -> int:
        """Return the number n of counted tokens."""
        return len(self.ids)

    @property
    def tokens_read(self) -> int:
        """Tokens of all windows, counted or not."""
        return len(self.ids) + len(self.windows)

    def id_counts(self) -> NDArray[np.int64]:
        """Return how often each token id occurs in the windows, up to the highest one."""
        return np.bincount(np.concatenate([window.ids for window in self.windows]))

    def slice_of(self, window: Window) -> slice:
        """Return the places of a window's tokens among the counted ones."""
        return self._slices[window.document, window.begin]

    def losses(
        self,
        model: Any,
        *,
        batch_tokens: int,
        dtype: torch.dtype | None = None,
        told: Callable[[list[Window]], object] | None = None,
    ) -> NDArray[np.float64]:
        """Measure a model.

        Args:
            model: A causal language model.
            batch_tokens: See `read_windows`.
            dtype: See `read_windows`.
            told: Told the windows of every forward pass after it, row by row.

        Returns:
            Nats of every counted token ``[n]``.
        """
        nats = np.empty(len(self.ids))
        batches = read_windows(model, self.windows, batch_tokens=batch_tokens, dtype=dtype)
        for batch, losses in batches:
            for window, of_tokens in zip(batch, losses, strict=True):
                nats[self.slice_of(window)] = of_tokens
            if told is not None:
                told(batch)
        return nats

    def by_document(self, nats: NDArray[np.float64]) -> DocumentLosses:
        """Add the nats of tokens ``[n]`` up by document."""
        return DocumentLosses(
            np.bincount(self.document, nats, len(self.document_tokens)).astype(np.float64),
            self.document_tokens,
            self.document_bytes,
            self.bytes_are_exact,
        )
