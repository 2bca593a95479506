"""`Trained`: the numbers of a run, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engram.training.document_loss import Difference, DocumentLosses
from engram.training.documents import TrainingDocuments
from engram.training.forecast import Forecast
from engram.training.train_options import TrainOptions

SCHEMA = "engram.train/1"


@dataclass(frozen=True, kw_only=True, repr=False)
class Trained:
    """Result of `train`.

    Attributes:
        options: What was trained, and how.
        output: The folder that was written; None of an interrupted run.
        steps: Steps that were made.
        tokens: Tokens that they read.
        seconds: Time of the steps, without evaluations.
        train_nats: Mean loss of the last 100 steps, nats a token.
        start: Held-out losses before.
        end: Held-out losses after; None of an interrupted run.
        difference: After minus before, with its interval.
        rows_touched: Rows that had a gradient.
        row_movement: Root mean square of the change of rows, in that of their start; None where
            tables started at zero, or none was trained.
        row_rms: Root mean square of the rows after; None where no table was trained.
        forecast: Expectations before the first step.
        checkpoint: The checkpoint of an interrupted run.
        documents: The text.
        log: Records of steps and evaluations.
        notes: Sentences that belong to the numbers.
    """

    options: TrainOptions
    output: Path | None
    steps: int
    tokens: int
    seconds: float
    train_nats: float
    start: DocumentLosses
    end: DocumentLosses | None = None
    difference: Difference | None = None
    rows_touched: int = 0
    row_movement: float | None = None
    row_rms: float | None = None
    forecast: Forecast
    checkpoint: Path | None = None
    documents: TrainingDocuments
    log: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        change = "" if self.difference is None else f", held out {self.difference.nats:+.4f} nats"
        return f"<Trained: {self.steps:,} steps, {self.tokens:,} tokens{change}>"

    def written_to(self, output: Path) -> Trained:
        """Return it with the folder that was written."""
        return replace(self, output=output)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram train --json`` prints."""
        difference = self.difference
        return {
            "schema": SCHEMA,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "train_nats": self.train_nats,
            "held_out": None if self.end is None else _losses(self.end),
            "held_out_start": _losses(self.start),
            "difference": None if difference is None else dict(vars(difference)),
            "rows_touched": self.rows_touched,
            "row_movement": self.row_movement,
            "row_rms": self.row_rms,
            "touches_per_row": self.forecast.touches_per_row,
            "forecast": self.forecast.to_dict(),
            "data": {
                "documents": len(self.documents),
                "tokens": self.documents.n_tokens,
                "held_out_documents": len(self.documents.held_out),
                "sha256": self.documents.sha256,
            },
            "options": self.options.to_dict(),
            "notes": list(self.notes),
            "output": None if self.output is None else str(self.output),
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
        }


def _losses(losses: DocumentLosses) -> dict[str, Any]:
    return {
        "nats_per_token": losses.nats_per_token,
        "bits_per_byte": losses.bits_per_byte,
        "perplexity": losses.perplexity,
        "documents": len(losses.tokens),
        "tokens": int(losses.tokens.sum()),
        "bytes": int(losses.bytes.sum()),
        "bytes_kind": "exact" if losses.bytes_are_exact else "estimated",
    }
