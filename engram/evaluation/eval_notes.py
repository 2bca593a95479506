"""Sentences that belong to the numbers of an evaluation: what they cannot say, and what they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engram.checkpoints.read.attached_files import TRAINING_FILE
from engram.evaluation.evaluated_text import EvaluatedText
from engram.evaluation.evaluation import PartLosses
from engram.evaluation.measured_runs import BASE, OFF, PERMUTED
from engram.evaluation.needles import Needles
from engram.evaluation.run_change import RunChange
from engram.storage.json_files import COUNT, find_json
from engram.units import format_count, plural

# Below so many documents a bootstrap's interval is too short.
_FEW_DOCUMENTS = 20


def notes_of(
    losses: PartLosses,
    learned: PartLosses | None,
    chosen: EvaluatedText,
    training: Mapping[str, Any] | None,
    others: Mapping[str, str | Path],
) -> tuple[str, ...]:
    """Return the notes of an evaluation.

    Args:
        losses: Its losses.
        learned: Losses of the text of the training.
        chosen: What was evaluated.
        training: Numbers of the run that trained the memory; None if unknown.
        others: Path of the models beside it, by run.
    """
    notes = [*chosen.notes]
    if chosen.split == "all" and training is not None:
        notes.append(
            "The memory was trained on another text, or on this one read by other rules, so every "
            "document is evaluated, as if none was trained on."
        )
    if BASE not in losses.runs:
        notes.append(
            "The base is left out, since its weights were trained with the memory: give it with "
            "--base."
        )
    notes += _of_the_memory(losses)
    if learned is not None:
        notes += _of_memorising(losses, learned)
    notes += _of_others(chosen, training, others)
    documents = losses.sizes["documents"]
    if documents < 2:
        notes.append(f"One document gives no interval: give a text of {_FEW_DOCUMENTS} or more.")
    elif documents < _FEW_DOCUMENTS:
        notes.append(
            f"Intervals are resampled from {plural(documents, 'document')}, so they are too short: "
            f"give a text of {_FEW_DOCUMENTS} or more."
        )
    return tuple(notes)


def needle_notes(needles: Needles | None, asked: int | None) -> Iterator[str]:
    """Say where a text was too short for the context of the needles that was asked for.

    Args:
        needles: The needles, if there are any.
        asked: Tokens of the context that were asked for, if they were.
    """
    if needles is not None and asked is not None and needles.context < asked:
        yield (
            f"Needles were hidden in {needles.context:,} tokens, not in {asked:,}: the text is "
            "shorter (--needle-context)."
        )


def _of_the_memory(losses: PartLosses) -> Iterator[str]:
    off, permuted = losses.minus(OFF), losses.minus(PERMUTED)
    if _is_zero(off):
        yield "The memory adds nothing: it was not trained."
    elif _is_zero(permuted):
        yield "Permuting rows changes nothing: the memory does not tell n-grams from each other."
    else:
        yield (
            "Permuting rows is a check of wiring alone: it harms any memory that reads its table, "
            "be the table random."
        )


def _is_zero(change: RunChange) -> bool:
    return not any((change.nats, change.low, change.high))


def _of_memorising(losses: PartLosses, learned: PartLosses) -> Iterator[str]:
    """Say that the intervals of both parts do not overlap, where both can be relied on."""
    if any(part.sizes["documents"] < _FEW_DOCUMENTS for part in (losses, learned)):
        return
    here, there = losses.minus(OFF), learned.minus(OFF)
    if here.low is None or here.high is None or there.low is None or there.high is None:
        return
    if there.high < here.low:
        yield (
            f"The memory memorises: it lowers the loss by {-there.nats:.4f} nats a token on text "
            f"of its training ({-there.high:.4f} to {-there.low:.4f}), and by {-here.nats:.4f} on "
            f"held-out text ({-here.high:.4f} to {-here.low:.4f})."
        )


def _of_others(
    chosen: EvaluatedText, training: Mapping[str, Any] | None, others: Mapping[str, str | Path]
) -> Iterator[str]:
    for name, path in others.items():
        if chosen.seen_by(path):
            yield f"{name} was trained on some of the documents that are evaluated here."
        stated = find_json(Path(path) / TRAINING_FILE, {"tokens": COUNT})
        if stated and training and stated["tokens"] != training.get("tokens", stated["tokens"]):
            yield (
                f"{name} was trained on {format_count(stated['tokens'])} tokens, the memory on "
                f"{format_count(training['tokens'])}."
            )
    if not any(name != BASE for name in others):
        yield (
            "What the table adds is known only beside a control: engram train --control "
            "frozen-random, then --against its folder."
        )
