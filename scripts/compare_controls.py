"""Trains a memory and its controls on one text, and writes what their held-out losses say.

    python scripts/compare_controls.py BASE TEXT FOLDER --minutes 15 --seeds 3 [-- OPTIONS]

BASE is a checkpoint without a memory. The memory and the frozen-random control are trained with
every seed, the uniform and the dense control with the first. All runs make as many steps as the
first could in the given time, on the same text; all are evaluated on the same held-out documents.
OPTIONS are those of engram train, for all runs.

What is finished in FOLDER stays, what was interrupted goes on: run it again until it ends. The
table is printed, and is FOLDER/results.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engram.training import Difference, DocumentLosses, paired_difference
from engram.training.run_folder import losses_from_json

Run = tuple[str, str | None, int]


def main() -> None:
    """Train what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--config", default="smollm2")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    given = parser.parse_args(words[:end])
    given.rest = words[end + 1 :]
    given.folder.mkdir(parents=True, exist_ok=True)
    steps: int | None = None
    for name, control, seed in runs(given.seeds):
        output = given.folder / name
        if not (output / "engram_training.json").is_file():
            train(given, output, control, seed, steps)
        steps = numbers(output)["steps"]
    text = table(given)
    (given.folder / "results.md").write_text(text, encoding="utf-8")
    print(text)


def runs(seeds: int) -> Iterator[Run]:
    """Yield name, control and seed of every run; the memory's first one decides the steps."""
    for seed in range(seeds):
        yield f"memory-{seed}", None, seed
        yield f"frozen-random-{seed}", "frozen-random", seed
    yield "uniform-0", "uniform", 0
    yield "dense-0", "dense", 0


def train(
    given: argparse.Namespace, output: Path, control: str | None, seed: int, steps: int | None
) -> None:
    """Train one run, or go on with it."""
    length = ["--minutes", f"{given.minutes:g}"] if steps is None else ["--steps", str(steps)]
    words = ["train", given.base, "-c", given.config, "--text", given.text, "-o", output]
    words += [*length, "--seed", seed, *given.rest]
    if control is not None:
        words += ["--control", control]
    if output.with_name(f"{output.name}.checkpoints").is_dir():
        words.append("--resume")
    print(f"== {output.name}", flush=True)
    subprocess.run([sys.executable, "-m", "engram_cli", *map(str, words)], check=True)


def table(given: argparse.Namespace) -> str:
    """Describe the runs and their differences in Markdown."""
    folder, lines = given.folder, []
    for name, _, _ in runs(given.seeds):
        found = numbers(folder / name)
        before, after = losses(folder / name)
        change = interval(paired_difference(after, before))
        held_out = found["held_out"]
        moved = found["row_movement"] if found["row_movement"] is not None else found["row_rms"]
        lines.append(
            f"| {name} | {held_out['nats_per_token']:.4f} | {held_out['bits_per_byte']:.4f} | "
            f"{change} | {found['train_nats']:.4f} | {'-' if moved is None else f'{moved:.3f}'} |"
        )
    pairs = []
    for seed in range(given.seeds):
        pairs.append(("memory", "frozen-random", seed))
    pairs += [("memory", "uniform", 0), ("memory", "dense", 0)]
    differences = [
        f"| {a}-{seed} minus {b}-{seed} | {difference(folder, a, b, seed)} |"
        for a, b, seed in pairs
    ]
    first = numbers(folder / "memory-0")
    start = first["held_out_start"]
    return f"""Base: {start["nats_per_token"]:.4f} nats a token, {start["bits_per_byte"]:.4f} bits a
byte, on {start["documents"]:,} held-out documents ({start["tokens"]:,} counted tokens). Every run:
{first["steps"]:,} steps, {first["tokens"]:,} tokens.

| run | nats a token | bits a byte | minus the base (95 % interval) | train | rows |
|---|---|---|---|---|---|
{chr(10).join(lines)}

| difference, nats a token | 95 % interval over documents |
|---|---|
{chr(10).join(differences)}
"""


def difference(folder: Path, a: str, b: str, seed: int) -> str:
    """Compare two runs on the held-out documents."""
    return interval(
        paired_difference(losses(folder / f"{a}-{seed}")[1], losses(folder / f"{b}-{seed}")[1])
    )


def interval(it: Difference) -> str:
    """Write a difference with its interval."""
    return f"{it.nats:+.4f} ({it.low:+.4f} to {it.high:+.4f})"


def numbers(output: Path) -> dict[str, Any]:
    """Read what a run says of itself."""
    found: dict[str, Any] = json.loads((output / "engram_training.json").read_text())
    return found


def losses(output: Path) -> tuple[DocumentLosses, DocumentLosses]:
    """Read the held-out losses of a run by document, before and after."""
    found = json.loads((output / "engram_held_out.json").read_text())
    return losses_from_json(found["before"]), losses_from_json(found["after"])


if __name__ == "__main__":
    main()
