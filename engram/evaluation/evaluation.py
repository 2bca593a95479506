"""`Evaluation`: losses with the memory and without it, beside controls, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engram.evaluation.evaluated_text import Split
from engram.evaluation.needles import Needles
from engram.evaluation.positions import LongWindows, PositionBucket
from engram.evaluation.probes import LayerProbe
from engram.evaluation.run_change import RunChange, run_change
from engram.evaluation.token_groups import TokenGroup
from engram.evaluation.verdict import verdict
from engram.training.document_loss import DocumentLosses

SCHEMA = "engram.eval/1"


@dataclass(frozen=True)
class RunDifference:
    """Loss of one run minus that of another, on the same documents.

    Attributes:
        a: Name of the one.
        b: Name of the other.
        difference: The difference in nats a token, with its 95 % interval if there is one.
    """

    a: str
    b: str
    difference: RunChange

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"a": self.a, "b": self.b, **vars(self.difference)}


@dataclass(frozen=True, eq=False)
class PartLosses:
    """Losses of every run on one part of the text.

    Attributes:
        runs: Losses by run.
        differences: Of the memory minus every other run.
    """

    runs: Mapping[str, DocumentLosses]
    differences: tuple[RunDifference, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Counted tokens, their bytes, and documents."""
        on = self.runs["on"]
        return {
            "tokens": int(on.tokens.sum()),
            "bytes": int(on.bytes.sum()),
            "documents": int((on.tokens > 0).sum()),
        }

    def minus(self, run: str) -> RunChange:
        """Return the difference of the memory and another run."""
        return next(it.difference for it in self.differences if it.b == run)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            **self.sizes,
            "runs": {
                name: {
                    "nats_per_token": it.nats_per_token,
                    "perplexity": it.perplexity,
                    # A text of special tokens has no bytes.
                    "bits_per_byte": it.bits_per_byte if it.bytes.any() else None,
                }
                for name, it in self.runs.items()
            },
            "differences": [it.to_dict() for it in self.differences],
        }


def compare_runs(runs: Mapping[str, DocumentLosses], resamples: int, seed: int) -> PartLosses:
    """Compare the run ``on`` with every other one, by a paired bootstrap over documents."""
    differences = tuple(
        RunDifference("on", name, run_change(runs["on"], losses, resamples=resamples, seed=seed))
        for name, losses in runs.items()
        if name != "on"
    )
    return PartLosses(runs, differences)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        target: The model.
        text: The text.
        context: Tokens of a window.
        split: Whether the documents are those that the training held out, or all.
        losses: Losses of those documents.
        training: Losses of documents that the memory was trained on; None where they are unknown.
        resamples: Times that documents were drawn for an interval.
        groups: Gains by groups of tokens.
        frequency_source: The text that tokens were counted in.
        positions: Losses by position in the window, of its longest windows.
        position_windows: Those windows.
        needles: Facts that were hidden in the text and asked for; None if there were none.
        layers: What each layer's memory does.
        notes: Sentences that belong to the numbers.
    """

    target: str
    text: str
    context: int
    split: Split
    losses: PartLosses
    training: PartLosses | None
    resamples: int
    groups: tuple[TokenGroup, ...]
    frequency_source: str
    positions: tuple[PositionBucket, ...]
    position_windows: LongWindows
    needles: Needles | None
    layers: tuple[LayerProbe, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        sizes, change = self.losses.sizes, self.losses.minus("off").nats
        return f"<Evaluation of {self.target}: {sizes['tokens']:,} tokens, {change:+.4f} nats>"

    @property
    def verdict(self) -> str:
        """Whether the memory helps, in a sentence or two."""
        return verdict(self.split, {it.b: it.difference for it in self.losses.differences})

    @property
    def memorised_nats(self) -> float | None:
        """Nats a token by which the gain on training text exceeds that on held-out text."""
        if self.training is None:
            return None
        return self.losses.minus("off").nats - self.training.minus("off").nats

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram eval --json`` prints."""
        training = self.training
        main = self.losses.to_dict()
        differences = main.pop("differences")
        return {
            "schema": SCHEMA,
            "target": self.target,
            "text": self.text,
            "verdict": self.verdict,
            "context": self.context,
            "split": self.split,
            "bytes_are_exact": self.losses.runs["on"].bytes_are_exact,
            **main,
            "differences": differences,
            "resamples": self.resamples,
            "training": None
            if training is None
            else {**training.to_dict(), "memorised_nats": self.memorised_nats},
            "groups": [it.to_dict() for it in self.groups],
            "frequency_source": self.frequency_source,
            "positions": [it.to_dict() for it in self.positions],
            "position_windows": self.position_windows.to_dict(),
            "needles": None if self.needles is None else self.needles.to_dict(),
            "layers": [it.to_dict() for it in self.layers],
            "notes": list(self.notes),
        }
