"""Ratios that benchmarks measure, in one form: for people, for programs, for docs/benchmarks.md.

A benchmark measures both sides of a ratio in turn, round by round, so that a busy moment slows
both; the median of the rounds counts, and the quartiles tell how far it can be trusted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = "engram.bench/1"
ROUNDS = 5


@dataclass(frozen=True)
class Ratio:
    """A measured ratio and what was promised of it.

    Attributes:
        key: Its stable name, such as ``hash-64k-one-thread``.
        what: What was measured, in the words of docs/benchmarks.md.
        against: The other side: a reference, a peer or a physical limit.
        rounds: The ratio in every round.
        at_least: The promise, where more is better.
        at_most: The promise, where less is better; for sizes it is in `unit`.
        unit: Unit of `rounds`: ``x`` for ratios, else such as ``GB`` or ``s``.
        note: What it means: seconds and rates of this run, how far the limit is.
    """

    key: str
    what: str
    against: str
    rounds: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"
    note: str = ""

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of the rounds."""
        if len(self.rounds) == 1:
            return (self.rounds[0],) * 3
        low, middle, high = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return low, middle, high

    @property
    def is_kept(self) -> bool | None:
        """Whether the median keeps the promise; None where nothing was promised."""
        median = self.quartiles[1]
        if self.at_least is not None:
            return median >= self.at_least
        return None if self.at_most is None else median <= self.at_most

    @property
    def promise(self) -> str:
        """The promise as text, such as ``>= 20 x``."""
        if self.at_least is not None:
            return f">= {self.at_least:g} {self.unit}"
        return "" if self.at_most is None else f"<= {self.at_most:g} {self.unit}"

    def to_dict(self) -> dict[str, Any]:
        """Return what a program needs, as JSON has it."""
        low, median, high = self.quartiles
        return {
            "key": self.key,
            "what": self.what,
            "against": self.against,
            "median": median,
            "quartiles": [low, high],
            "rounds": list(self.rounds),
            "at_least": self.at_least,
            "at_most": self.at_most,
            "is_kept": self.is_kept,
            "unit": self.unit,
            "note": self.note,
        }


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Return the parser that every benchmark has: ``--rounds``, ``--quick`` and ``--json``."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a short form, for development")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    return parser


def interleaved(
    runs: Mapping[str, Callable[[], Any]], rounds: int, calls: int = 1
) -> dict[str, list[float]]:
    """Time every run once a round, after a first call that does not count.

    Args:
        runs: Functions, by name.
        rounds: Rounds.
        calls: Calls in a row of each, in a round.

    Returns:
        Seconds a call, by name and round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            for _ in range(calls):
                run()
            seconds[name].append((time.perf_counter() - begin) / calls)
    return seconds


def times_as_fast(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """Divide seconds by seconds, round by round."""
    return [one / other for one, other in zip(slow, fast, strict=True)]


def finish(ratios: Sequence[Ratio], file: Path | None) -> None:
    """Print ratios as a table, and write them where they were asked for.

    Args:
        ratios: The results.
        file: JSON of schema ``engram.bench/1`` to write; None for none.
    """
    for ratio in ratios:
        low, median, high = ratio.quartiles
        kept = {True: "kept", False: "MISSED", None: ""}[ratio.is_kept]
        print(f"{median:9.3g} {ratio.unit:3} [{low:.3g}, {high:.3g}]  {ratio.promise:12} {kept}")
        print(f"          {ratio.what}, against {ratio.against}")
        if ratio.note:
            print(f"          {ratio.note}")
    if file is not None:
        content = {"schema": SCHEMA, "results": [ratio.to_dict() for ratio in ratios]}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
