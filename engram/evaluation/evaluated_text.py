"""Chooses the documents to evaluate: those that a training held out, or all of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engram.checkpoints.read.attached_files import TRAINING_FILE
from engram.storage.json_files import COUNT, NUMBER, TEXT, check_shape, find_json
from engram.training.documents import TrainingDocuments, random_bits

Split = Literal["held_out", "all"]

HELD_OUT_NOTE = "The text trained the memory: only documents that were held out are read."

# Key of the random order of the documents that were trained on.
_ORDER = 2**64 - 2
_SHAPE = {"data": {"sha256": TEXT}, "options": {"held_out": NUMBER, "held_out_seed": COUNT}}


@dataclass(frozen=True, eq=False)
class EvaluatedText:
    """The documents that are evaluated.

    Attributes:
        documents: The whole text, with what is evaluated as its held-out part.
        split: Whether that is what the training held out, or all.
        main: Token ids of each evaluated document ``[any]``.
        numbers: Their numbers in the text ``[len(main)]``.
        training: Token ids of documents that the model was trained on; None where it was not
            trained on this text, as far as is known.
        notes: Sentences about the choice.
    """

    documents: TrainingDocuments
    split: Split
    main: list[NDArray[Any]]
    numbers: NDArray[np.int64]
    training: list[NDArray[Any]] | None
    notes: tuple[str, ...]

    def seen_by(self, path: str | Path) -> bool:
        """Whether the model in a folder was trained on some of the evaluated documents."""
        held_out = _held_out_of(self.documents, find_json(Path(path) / TRAINING_FILE, _SHAPE))
        return held_out is not None and not np.isin(self.numbers, held_out.held_out).all()


def choose_documents(
    documents: TrainingDocuments,
    training: Mapping[str, Any] | None,
    most_tokens: int,
    seed: int,
) -> EvaluatedText:
    """Choose the documents of a text to evaluate a model on.

    Args:
        documents: The text.
        training: Numbers of the run that trained the model; None if unknown.
        most_tokens: Tokens of each part, at most; its last document is cut there.
        seed: Decides the order in which documents are read, but for what a training held out, which
            has an order already.

    Raises:
        InputError: No document has two tokens.
    """
    divided = _held_out_of(documents, training)
    if divided is None:
        every = documents.divided(None, seed)
        main, numbers, note = _read(every, every.held_out, most_tokens)
        return EvaluatedText(every, "all", main, numbers, None, note)
    main, numbers, note = _read(divided, divided.held_out, most_tokens, "held-out ")
    countable = divided.training[divided.lengths[divided.training] >= 2]
    order = np.argsort(random_bits(seed, _ORDER, len(countable)), kind="stable")
    as_many = sum(map(len, main))
    trained_on, _, _ = _read(divided, countable[order], as_many)
    return EvaluatedText(divided, "held_out", main, numbers, trained_on, note)


def _held_out_of(
    documents: TrainingDocuments, training: Mapping[str, Any] | None
) -> TrainingDocuments | None:
    """Divide a text as a training did; None of another text."""
    if training is None or "data" not in training:
        return None
    check_shape(training, _SHAPE, TRAINING_FILE)
    if training["data"]["sha256"] != documents.sha256:
        return None
    options = training["options"]
    return documents.divided(options["held_out"], options["held_out_seed"])


def _read(
    documents: TrainingDocuments, numbers: NDArray[np.int64], most_tokens: int, kind: str = ""
) -> tuple[list[NDArray[Any]], NDArray[np.int64], tuple[str, ...]]:
    """Read documents until they have so many tokens; return them, their numbers, and notes."""
    lengths = documents.lengths[numbers]
    ends = np.cumsum(lengths)
    whole = int(np.searchsorted(ends, most_tokens, side="right"))
    read = [documents.tokens(number) for number in numbers[:whole]]
    notes: tuple[str, ...] = () if documents.note is None else (documents.note,)
    if whole == len(numbers):
        return read, numbers, notes
    rest = most_tokens - int(ends[whole - 1] if whole else 0)
    if rest >= 2:
        read.append(documents.tokens(numbers[whole], 0, rest))
    note = (
        f"{sum(map(len, read)):,} of {int(ends[-1]):,} {kind}tokens were read, of documents in "
        "random order (--tokens)."
    )
    return read, numbers[: len(read)], (*notes, note)
