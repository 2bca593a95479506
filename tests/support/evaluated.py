"""Folders to evaluate: a memory that was trained on a text, and controls of it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.evaluation import EvalOptions, Evaluation
from engram.training import train
from support import tiny
from support.trained import options, written_text

SETTINGS = {"steps": 40, "table_lr": 0.5, "held_out": 0.2, "save_every": 0, "evaluate_every": 0}
SHORT = EvalOptions(bootstrap=200, context=24, tokens=600)


@dataclass(frozen=True)
class Place:
    """A folder with a text, a base, an attached folder, and what was trained from that.

    Attributes:
        folder: The folder.
        text: A text of 80 paragraphs, of which a fifth is held out.
        base: A tiny Llama.
        attached: The same with a memory, untrained.
    """

    folder: Path
    text: Path
    base: Path
    attached: Path

    def trained(self, name: str, text: Path | None = None, **more: Any) -> Path:
        """Train from the attached folder, once for each name; do not change the result."""
        output = self.folder / name
        if not output.exists():
            settings = options(**{**SETTINGS, **more})
            train(self.attached, output, text or self.text, options=settings)
        return output


_MADE: list[Place] = []


def place(tmp_path_factory: Any) -> Place:
    """Return the folders, made once for all tests."""
    if not _MADE:
        folder = tmp_path_factory.mktemp("evaluated")
        base = tiny.base_model("llama", folder / "base")
        attached = tiny.attached_model(base, folder / "attached")
        _MADE.append(Place(folder, written_text(folder), base, attached))
    return _MADE[0]


def nats(found: Evaluation, run: str) -> float:
    """Return the loss of a run."""
    return found.losses.runs[run].nats_per_token


def random_text(path: Path, paragraphs: int = 60) -> Path:
    """Write paragraphs of words at random, of which nothing but the words can be learned."""
    numbers = random.Random(3)
    words = ["".join(numbers.choices("abcdefghij", k=4)) for _ in range(400)]
    lines = [" ".join(numbers.choices(words, k=12)) for _ in range(paragraphs)]
    path.write_text("\n\n".join(lines))
    return path
