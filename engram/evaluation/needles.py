"""Hides facts in a long context of a text, and asks for each of them at its end.

Shapes: T tokens of a trial, V vocabulary.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from engram.addressing.tokenizer_files import TokenizerFile
from engram.errors import InputError, UsageError
from engram.evaluation.finite_losses import demand_finite
from engram.training.evaluating import evaluating

# Stretches of the text that facts are hidden in, at most.
_TRIALS = 8
_SYLLABLES = [first + second for first in "bdfgklmnprtvz" for second in "aeiou"]
_DIGITS = 5
_VALUES = range(10 ** (_DIGITS - 1), 10**_DIGITS)
# Tokens that a fact takes at least: a question and a value, twice, and one of the text.
_LEAST_TOKENS = 5


@dataclass(frozen=True)
class Needle:
    """A fact that was asked for.

    Attributes:
        depth: Where it is hidden: 0 at the start of the context, 1 at its end.
        run: The run that was asked.
        nats: Loss of a token of its value.
        exact: Whether every token of the value was the most likely one.
    """

    depth: float
    run: str
    nats: float
    exact: bool


@dataclass(frozen=True)
class Needles:
    """Answers of every run.

    Attributes:
        count: Facts in a context.
        context: Tokens of a context, with the questions at its end.
        trials: Contexts, each of another stretch of the text.
        items: Every fact of every run.
    """

    count: int
    context: int
    trials: int
    items: tuple[Needle, ...]

    @classmethod
    def of(cls, trials: Sequence[Trial], items: Sequence[Needle]) -> Needles | None:
        """Return the answers to trials; None without any."""
        if not trials:
            return None
        context = max(len(trial.ids) for trial in trials)
        return cls(len(trials[0].depths), context, len(trials), tuple(items))

    def runs(self) -> Mapping[str, tuple[float, float]]:
        """Return each run's nats a value token, and its share of exact answers."""
        return {
            run: (fmean(it.nats for it in items), fmean(it.exact for it in items))
            for run in dict.fromkeys(it.run for it in self.items)
            for items in [[it for it in self.items if it.run == run]]
        }

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "count": self.count,
            "context": self.context,
            "trials": self.trials,
            "runs": {
                run: {"nats_per_token": nats, "exact": exact}
                for run, (nats, exact) in self.runs().items()
            },
            "items": [dict(vars(it)) for it in self.items],
        }


class Trial(NamedTuple):
    """A context with its facts and questions.

    Attributes:
        ids: Token ids ``[T]``.
        depths: Depth of each fact.
        answers: Places of the tokens of each fact's value, where it is asked for.
    """

    ids: NDArray[np.int64]
    depths: list[float]
    answers: list[slice]


class _Fact(NamedTuple):
    """Token ids of a sentence: up to its value, the value, and the end."""

    question: tuple[int, ...]
    value: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.question + self.value + self.end


def hide_facts(
    documents: Sequence[NDArray[Any]],
    tokenizer: TokenizerFile,
    count: int,
    context: int,
    seed: int,
) -> list[Trial]:
    """Hide facts at even depths in stretches of a text.

    A fact is a sentence such as "The code of bavoku is 48213."; at the end all facts of the context
    are asked for, in random order, each as the start of the same sentence.

    Args:
        documents: Token ids of the text's documents ``[any]``.
        tokenizer: The tokenizer.
        count: Facts in a context.
        context: Tokens of a context with its questions.
        seed: Decides the facts and the order of the questions.

    Returns:
        Up to eight contexts, of a stretch of the text each; one at least, which is shorter where
        the text is.

    Raises:
        UsageError: The context is too short for its facts, or there are more than values for them.
        InputError: The tokenizer cannot write the facts, or the text has fewer tokens than facts.
    """
    if count > len(_VALUES):
        raise UsageError(
            f"There are values for {len(_VALUES):,} needles, got {count:,}.",
            "Give fewer with --needles.",
        )
    # Facts of a count that no context holds are not even made.
    _demand_room(count, _LEAST_TOKENS * count, context)
    text = np.concatenate([_without_end(document, tokenizer) for document in documents])
    numbers = random.Random(seed)
    trials: list[Trial] = []
    begin = 0
    while len(trials) < _TRIALS:
        facts = _facts(tokenizer, count, numbers)
        taken = sum(2 * len(fact.ids) for fact in facts)
        _demand_room(count, taken + count, context)
        room = context - taken
        if trials and begin + room > len(text):
            break
        trials.append(_hide(text[begin : begin + room], facts, numbers))
        begin += room
    if len(text) < count:
        raise InputError(
            f"The text has {len(text)} tokens, too few to hide {count} needles in.",
            "Give more text, or fewer needles.",
        )
    return trials


def _demand_room(count: int, needed: int, context: int) -> None:
    """Refuse more facts than a context holds, of at least so many tokens with one of text each."""
    if needed > context:
        raise UsageError(
            f"{count:,} needles and their questions take at least {needed:,} tokens of a context "
            f"of {context:,}.",
            "Give fewer with --needles, or a longer --needle-context.",
        )


def ask(model: Any, run: str, trial: Trial, dtype: torch.dtype | None = None) -> list[Needle]:
    """Ask a model for the facts of a context, in one forward pass.

    The values of facts that were asked for before are given, as they should be.

    Args:
        model: A causal language model.
        run: Its name.
        trial: The context.
        dtype: dtype of autocast; the model's own when None.

    Raises:
        InputError: A loss is not a finite number.
    """
    device, found = model.device, []
    # Logits of the questions alone, where the model can leave the others out.
    first = min(places.start for places in trial.answers) - 1
    few: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        few["logits_to_keep"] = len(trial.ids) - first
    ids = torch.from_numpy(trial.ids).to(device)
    autocast = nullcontext() if dtype is None else torch.autocast(device.type, dtype)
    with evaluating(model), autocast:
        logits = model(input_ids=ids[None], use_cache=False, **few).logits[0]
    logits = logits[-(len(trial.ids) - first) :]  # [T - first, V]
    for depth, places in zip(trial.depths, trial.answers, strict=True):
        said = logits[places.start - 1 - first : places.stop - 1 - first].double()
        value = ids[places].to(said.device)
        nats = float(cross_entropy(said, value))
        found.append(Needle(depth, run, nats, bool((said.argmax(dim=-1) == value).all())))
    demand_finite(np.array([needle.nats for needle in found]), run)
    return found


def _hide(text: NDArray[np.int64], facts: Sequence[_Fact], numbers: random.Random) -> Trial:
    """Make a trial of a stretch of text."""
    depths = [(place + 0.5) / len(facts) for place in range(len(facts))]
    ids: list[int] = []
    begin = 0
    for depth, fact in zip(depths, facts, strict=True):
        end = round(depth * len(text))
        ids += [*text[begin:end].tolist(), *fact.ids]
        begin = end
    ids += text[begin:].tolist()
    answers = [slice(0)] * len(facts)
    for place in numbers.sample(range(len(facts)), len(facts)):
        fact = facts[place]
        first = len(ids) + len(fact.question)
        answers[place] = slice(first, first + len(fact.value))
        ids += fact.ids
    return Trial(np.array(ids, dtype=np.int64), depths, answers)


def _facts(tokenizer: TokenizerFile, count: int, numbers: random.Random) -> list[_Fact]:
    """Make facts of different keys and values."""
    keys: set[str] = set()
    while len(keys) < count:
        keys.add("".join(numbers.sample(_SYLLABLES, 3)))
    values = numbers.sample(_VALUES, count)
    facts = [
        _fact(tokenizer, key, str(value)) for key, value in zip(sorted(keys), values, strict=True)
    ]
    if any(len({getattr(fact, part) for fact in facts}) < count for part in ("question", "value")):
        raise InputError(
            f"The tokenizer {tokenizer.name} cannot write needles: different ones have equal ids.",
            "Leave --needles out.",
            tokenizer=tokenizer.name,
        )
    return facts


def _fact(tokenizer: TokenizerFile, key: str, value: str) -> _Fact:
    before, end = f"\nThe code of {key} is", f" {value}"
    encoded = tokenizer.tokenizer.encode(f"{before}{end}.", add_special_tokens=False)
    parts: tuple[list[int], ...] = ([], [], [])
    for token_id, (first, last) in zip(encoded.ids, encoded.offsets, strict=True):
        is_end = first >= len(before) + len(end)
        # A space that is a token by itself does not belong to the value.
        parts[2 if is_end else int(last > len(before) + 1)].append(token_id)
    return _Fact(*map(tuple, parts))


def _without_end(document: NDArray[Any], tokenizer: TokenizerFile) -> NDArray[np.int64]:
    """Return a document without its end-of-text token."""
    has_end = len(document) > 0 and document[-1] == tokenizer.eos_id
    return document[: len(document) - has_end].astype(np.int64)
