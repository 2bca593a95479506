"""Chooses the part of a text that a trained memory is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.tokenizer_files import TokenizerFile
from engram.corpus.text.text_options import TextOptions
from engram.training.documents import TrainingDocuments, random_bits

# Key of the random bits that order the documents.
_ORDER = 2**64 - 2


@dataclass(frozen=True, eq=False)
class TextSample:
    """Documents of a text, in random order.

    Attributes:
        documents: Token ids of each ``[n]``; the last one may be cut.
        held_out: Whether they are those that a run of training held out of the same text.
    """

    documents: list[NDArray[Any]]
    held_out: bool


def sample_text(
    data: Any,
    tokenizer: TokenizerFile,
    training: dict[str, Any] | None,
    *,
    tokens: int,
    options: TextOptions | None = None,
    seed: int = 0,
) -> TextSample:
    """Read documents of a text until there are so many tokens.

    Args:
        data: A folder of token shards, or a text; or an iterable of documents. See
            `TrainingDocuments`.
        tokenizer: The model's tokenizer.
        training: Numbers of the run that trained the memory. If it read the same text, only
            documents that it held out are read.
        tokens: Tokens, at most.
        options: How a text is read.
        seed: Decides the order of the documents.

    Raises:
        EngramError: The text cannot be read; see `TrainingDocuments`.
    """
    split: dict[str, Any] = {} if training is None else training["options"]
    found = TrainingDocuments(
        str(data) if isinstance(data, Path) else data,
        tokenizer,
        options=options,
        held_out_share=split.get("held_out", 0.05),
        seed=split.get("held_out_seed", 0),
    )
    is_trained_on = training is not None and training["data"]["sha256"] == found.sha256
    numbers = found.held_out
    if not is_trained_on:
        countable = np.flatnonzero(found.lengths >= 2)
        bits = random_bits(seed, _ORDER, len(found))
        numbers = countable[np.argsort(bits[countable], kind="stable")]
    documents: list[NDArray[Any]] = []
    for number in numbers.tolist():
        if tokens < 2:
            break
        documents.append(found.tokens(number, 0, tokens))
        tokens -= len(documents[-1])
    return TextSample(documents, is_trained_on)
