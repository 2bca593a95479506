"""Trains a tiny model on a source that only a memory can learn, and prints what is left to learn.

The gap is the held-out loss above the source's entropy rate in nats a token, the median of three
seeds. See `synthetic_source.py` for the source and the model. Targets: at most 0.8 after 300 steps
of 1,024 tokens with the defaults of `MemoryOptimizer` and a table of zeros, within a minute of one
CPU; at least 2.0 with random rows that stay as they are; at most 0.36 after ten times the steps.

    python benchmarks/bench_training.py
"""

from __future__ import annotations

import time

import torch
import transformers
from measured import Ratio, finish, parser_of
from synthetic_source import BATCH, LENGTH, LONG, Source, Training, gap

SEEDS = (0, 1, 2)
MOST_SECONDS = 60
ZERO, RANDOM = "zero-table", "paper"
# What is trained, how, and what is promised of the gap.
RUNS: dict[str, tuple[str, Training, dict[str, float]]] = {
    "none": ("no memory", Training(init=None), {}),
    "frozen": (
        "rows of N(0, 1), frozen",
        Training(init=RANDOM, table_optimizer=None),
        {"at_least": 2.0},
    ),
    "random": ("rows of N(0, 1), row-wise Adagrad", Training(init=RANDOM), {"at_most": 2.0}),
    "zero": ("rows of 0, row-wise Adagrad (the defaults)", Training(init=ZERO), {"at_most": 0.8}),
    "rmsprop": (
        "rows of 0, row-wise RMSprop",
        Training(init=ZERO, table_optimizer="rowwise-rmsprop", table_lr=0.05),
        {"at_most": 0.8},
    ),
    "long": ("rows of 0, ten times the steps", LONG, {"at_most": 0.36}),
}
QUICK = ("zero",)


def main() -> None:
    """Run every way of training; the seeds are the rounds."""
    parser = parser_of(__doc__)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    source, ratios = Source(), []
    for key in QUICK if arguments.quick else RUNS:
        name, training, promise = RUNS[key]
        began = time.process_time()
        gaps = [gap(source, training, seed) for seed in SEEDS[: arguments.rounds]]
        seconds = (time.process_time() - began) / len(gaps)
        what = f"gap to the entropy rate, {name}, {training.steps} steps of {BATCH} x {LENGTH}"
        note = f"{seconds:.1f} s of CPU a run; the source has {source.floor:.3f} nats a token"
        against = "the entropy rate of a synthetic source"
        ratios.append(
            Ratio(f"training-{key}", what, against, gaps, **promise, unit="nats", note=note)
        )
    finish(ratios, arguments.json)


if __name__ == "__main__":
    main()
