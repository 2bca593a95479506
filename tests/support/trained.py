"""Short runs of `train`: their options, their text, and the files that they write."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from engram.training import TrainOptions

OPTIONS = {"steps": 6, "batch": 2, "context": 32, "save_every": 2, "evaluate_every": 3}


def options(**more: Any) -> TrainOptions:
    """Return the options of a run of six steps, on the CPU, where equal runs are equal in bytes."""
    trainer = {"use_cpu": True, **more.pop("trainer", {})}
    return TrainOptions(**{**OPTIONS, **more}, trainer=trainer)


def written_text(folder: Path) -> Path:
    """Write a text of 80 paragraphs of words that follow each other in few ways."""
    numbers, lines = random.Random(1), []
    for _ in range(80):
        word, line = numbers.randrange(40), []
        for _ in range(numbers.randrange(4, 50)):
            word = (3 * word + numbers.randrange(2)) % 40
            line.append(f"w{word}")
        lines.append(" ".join(line))
    path = folder / "text.txt"
    path.write_text("\n\n".join(lines))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    """Read every file in a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def tiny_base(attached: Path) -> Path:
    """Return the base that a tiny folder was attached to."""
    return attached.parent / "base"
