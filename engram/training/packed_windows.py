"""Rows for training: windows of packed documents, or documents apart, by number from any on.

Row i is a function of the documents, the seed and i alone: ranks share the rows by number, and a
run that resumes reads nothing again. Every epoch takes the documents in another order.

Shapes: T tokens of a row.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engram.arguments import checked
from engram.errors import InputError
from engram.training.documents import TrainingDocuments, random_bits
from engram.training.evaluating import evaluating

# The label of tokens that have no loss.
IGNORED = -100
_PROBE_TOKENS = 5
# Roundings of the largest logit by which kernels may differ between rows of one shape (experts take
# the tokens of all rows at once), and between a document in a row and alone.
_SAME_SHAPE, _OTHER_SHAPE = 4, 32


class TrainingRows(ABC):
    """Rows of the documents for training, epoch after epoch.

    Args:
        documents: The documents.
        row_tokens: Tokens T of a row, at least 2.
        seed: Decides the order of the documents.

    Attributes:
        row_tokens: As given.
        rows_per_epoch: Rows of an epoch.

    Raises:
        InputError: The documents do not fill a row.
    """

    @checked(row_tokens=2, seed=0)
    def __init__(self, documents: TrainingDocuments, row_tokens: int, seed: int = 0) -> None:
        self.row_tokens = row_tokens
        self._documents, self._seed = documents, seed
        self._sizes = self._sizes_of(documents.lengths[documents.training])
        self.rows_per_epoch = self._rows_in(int(self._sizes.sum()))
        # Order of the documents in an epoch, and the sum of their sizes up to each.
        self._epoch = -1
        self._order = self._ends = np.empty(0, np.int64)
        if not self.rows_per_epoch:
            raise InputError(
                f"The documents for training have {self._sizes.sum():,} tokens, less than a row of "
                f"{row_tokens:,}.",
                "Lower --context (in Python, context), or give more text.",
                row_tokens=row_tokens,
            )

    def __len__(self) -> int:
        """Return the rows of an epoch."""
        return self.rows_per_epoch

    def row(self, number: int) -> dict[str, Tensor]:
        """Return a row.

        Args:
            number: Its number, from 0; epoch e starts with row ``e * rows_per_epoch``.

        Returns:
            Int64 tensors ``[T]``, among them `input_ids` and `labels`, which are -100 where the
            row has nothing that could predict the token.
        """
        epoch, place = divmod(number, self.rows_per_epoch)
        if epoch != self._epoch:
            numbers = self._documents.training
            order = np.argsort(random_bits(self._seed, epoch, len(numbers)), kind="stable")
            self._order, self._ends = numbers[order], np.cumsum(self._sizes[order])
            self._epoch = epoch
        return {name: torch.from_numpy(values) for name, values in self._row(place).items()}

    def batch(self, first: int, count: int) -> dict[str, Tensor]:
        """Return rows first..first+count-1, each name's tensors stacked ``[count, T]``."""
        rows = [self.row(number) for number in range(first, first + count)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    @abstractmethod
    def _sizes_of(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what each document adds to an epoch, from its tokens."""

    @abstractmethod
    def _rows_in(self, size: int) -> int:
        """Return the rows of an epoch from the sum of all sizes."""

    @abstractmethod
    def _row(self, place: int) -> dict[str, NDArray[np.int64]]:
        """Return a row of the epoch at hand."""

    def _find(self, position: int) -> tuple[int, int]:
        """Return the index in the order of the document at a position, and the offset in it."""
        index = int(np.searchsorted(self._ends, position, side="right"))
        before = int(self._ends[index - 1]) if index else 0
        return index, position - before


class PackedWindows(TrainingRows):
    """Windows over documents that are put one after the other.

    A document goes on in the next window where a window ends in it. `position_ids` restart at every
    document and in every window: from them the memory, and attention without a mask and without a
    cache, know documents apart (see `packs_documents`). The first token of each has the label -100.
    An incomplete window at the end of an epoch is left out.
    """

    def _sizes_of(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        return lengths

    def _rows_in(self, size: int) -> int:
        return size // self.row_tokens

    def _row(self, place: int) -> dict[str, NDArray[np.int64]]:
        ids = np.empty(self.row_tokens, np.int64)
        positions = np.empty(self.row_tokens, np.int64)
        index, offset = self._find(place * self.row_tokens)
        filled = 0
        while filled < self.row_tokens:
            end = offset + self.row_tokens - filled
            part = self._documents.tokens(int(self._order[index]), offset, end)
            ids[filled : filled + len(part)] = part
            positions[filled : filled + len(part)] = np.arange(len(part))
            filled += len(part)
            index, offset = index + 1, 0
        labels = np.where(positions == 0, IGNORED, ids)
        return {"input_ids": ids, "position_ids": positions, "labels": labels}


class SeparateDocuments(TrainingRows):
    """Rows of one document each, for models that do not know packed documents apart.

    A longer document is cut into rows that follow each other. Shorter ones are padded on the right:
    `attention_mask` is 0 and the label -100 there.
    """

    def _sizes_of(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        # A last piece of one token predicts nothing: it is left out.
        return (np.maximum(lengths, 1) + self.row_tokens - 2) // self.row_tokens

    def _rows_in(self, size: int) -> int:
        return size

    def _row(self, place: int) -> dict[str, NDArray[np.int64]]:
        index, piece = self._find(place)
        begin = piece * self.row_tokens
        number = int(self._order[index])
        part = self._documents.tokens(number, begin, begin + self.row_tokens)
        ids = np.full(self.row_tokens, part[-1], np.int64)
        ids[: len(part)] = part
        keep = np.arange(self.row_tokens) < len(part)
        labels = np.where(keep, ids, IGNORED)
        labels[0] = IGNORED
        return {"input_ids": ids, "attention_mask": keep.astype(np.int64), "labels": labels}


def packs_documents(model: Any) -> bool:
    """Tell whether a model keeps the documents of a packed row apart.

    Two short documents go through the model: in one row, with `position_ids` that restart, and
    alone. The second one's logits must not depend on the first, and be those of the document alone.

    Args:
        model: A causal language model, with its memory or without.
    """
    ids = torch.arange(3 * _PROBE_TOKENS, device=model.device).view(3, -1)
    ids = 3 + 7 * ids % (model.get_input_embeddings().num_embeddings - 3)
    first, other, second = ids.unsqueeze(1)
    positions = torch.arange(_PROBE_TOKENS, device=model.device)[None]
    both = torch.cat([positions, positions], dim=1)
    try:
        with evaluating(model):
            alone = _logits(model, second, positions)
            after, after_other = (
                _logits(model, torch.cat([document, second], dim=1), both)[:, _PROBE_TOKENS:]
                for document in (first, other)
            )
    except TypeError:  # it takes no position_ids
        return False
    effect = (after - after_other).abs().max()
    rounding = torch.finfo(after.dtype).eps * after.abs().max()
    error = (after - alone).abs().max()
    return bool(effect <= _SAME_SHAPE * rounding) and bool(error <= _OTHER_SHAPE * rounding)


def _logits(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    return logits
