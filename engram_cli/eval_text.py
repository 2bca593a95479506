"""Says what an evaluation found: the answer first, then the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING

from engram.units import plural
from engram_cli.output import Shown, Table

if TYPE_CHECKING:
    from engram.evaluation.evaluation import Evaluation, PartLosses
    from engram.evaluation.needles import Needles

_RUNS = {"on": "memory on", "off": "memory off", "permuted": "rows permuted", "base": "base"}
_KINDS = {
    "frequency": "occurrences",
    "ngram": "n-gram before it, the longest that was seen",
    "word_part": "part of a word",
}


def show(found: Evaluation) -> Shown:
    """Describe an evaluation for people."""
    yield found.verdict
    where = "held out" if found.split == "held_out" else "text"
    yield from _losses(found.losses, where)
    sizes = found.losses.sizes
    about = "" if found.losses.runs["on"].bytes_are_exact else "about "
    intervals = ""
    if sizes["documents"] > 1:
        intervals = f"; 95 % intervals of {plural(found.resamples, 'resample')} of documents"
    yield (
        f"\n{plural(sizes['documents'], 'document')}, {plural(sizes['tokens'], 'counted token')}, "
        f"{about}{plural(sizes['bytes'], 'byte')}; windows of {found.context:,} tokens{intervals}."
    )
    if found.training is not None:
        yield from _losses(found.training, "trained on")
        yield f"\n{_memorised(found.memorised_nats or 0.0)}"
    yield from _groups(found)
    yield from _positions(found)
    if found.needles is not None:
        yield from _needles(found.needles)
    yield from _layers(found)
    if found.notes:
        yield ""
    yield from found.notes


def _memorised(nats: float) -> str:
    """Say where more is gained: on text of the training, or on held-out text."""
    more = "more" if nats >= 0 else "less"
    return (
        f"The memory gains {abs(nats):.4f} nats a token {more} on text of its training than on "
        "held-out text."
    )


def _losses(part: PartLosses, title: str) -> Iterator[str | Table]:
    rows = []
    for name, it in part.runs.items():
        bits = f"{it.bits_per_byte:.4f}" if it.bytes.any() else ""
        row = [_RUNS.get(name, name), f"{it.nats_per_token:.4f}", f"{it.perplexity:.2f}", bits]
        if name == "on":
            rows.append([*row, "", ""])
            continue
        change = part.minus(name)
        has_interval = change.low is not None and change.high is not None
        interval = f"{change.low:+.4f} to {change.high:+.4f}" if has_interval else ""
        rows.append([*row, f"{change.nats:+.4f}", interval])
    headings = (title, "nats a token", "perplexity", "bits a byte", "on minus it", "95 % interval")
    yield ""
    yield Table(rows, headings, left=(title,))


def _groups(found: Evaluation) -> Iterator[str | Table]:
    for by, groups in groupby(found.groups, key=lambda it: it.by):
        title = _KINDS[by]
        if by == "frequency":
            title = f"occurrences in {found.frequency_source}"
        rows = [
            (
                it.group,
                f"{it.tokens:,}",
                f"{it.nats_on:.4f}",
                f"{it.nats_off:.4f}",
                f"{it.gain:+.4f}",
                "" if it.share_of_gain is None else f"{100 * it.share_of_gain:.1f} %",
            )
            for it in groups
        ]
        headings = (title, "tokens", "nats on", "nats off", "gain", "share of gain")
        yield ""
        yield Table(rows, headings, left=(title,))


def _positions(found: Evaluation) -> Iterator[str | Table]:
    names = list(found.positions[0].runs)
    rows = [
        [
            f"{it.first:,}" if it.first == it.last else f"{it.first:,} to {it.last:,}",
            f"{it.tokens:,}",
            *(f"{it.runs[name]:.4f}" for name in names),
        ]
        for it in found.positions
    ]
    title = "tokens before it in the window"
    yield ""
    yield Table(rows, (title, "tokens", *(_RUNS[name] for name in names)), left=(title,))


def _needles(needles: Needles) -> Iterator[str | Table]:
    title = f"needles ({needles.count} in each of {plural(needles.trials, 'context')})"
    rows = [
        (_RUNS[run], "all", f"{nats:.4f}", f"{100 * exact:.1f} %")
        for run, (nats, exact) in needles.runs().items()
    ]
    for depth in sorted({it.depth for it in needles.items}):
        rows += [
            (_RUNS[run], f"{depth:.2f}", f"{nats:.4f}", f"{100 * exact:.1f} %")
            for run, nats, exact in _by_run(needles, depth)
        ]
    yield ""
    yield Table(rows, (title, "depth", "nats a token", "exact"), left=(title,))


def _by_run(needles: Needles, depth: float) -> Iterator[tuple[str, float, float]]:
    for run in needles.runs():
        items = [it for it in needles.items if (it.run, it.depth) == (run, depth)]
        yield run, fmean(it.nats for it in items), fmean(it.exact for it in items)


def _layers(found: Evaluation) -> Iterator[str | Table]:
    rows: list[Sequence[object]] = [
        (
            it.layer_id,
            " ".join(f"{quartile:.3f}" for quartile in it.gate_quartiles),
            f"{it.gate_mean:.3f}",
            f"{it.write_norm:.3g}",
            f"{it.row_rms:.3g}",
            "" if it.row_norm_over_start is None else f"{it.row_norm_over_start:.3g}",
        )
        for it in found.layers
    ]
    headings = ("layer", "gate quartiles", "mean gate", "added / stream", "row RMS", "over start")
    yield ""
    yield Table(rows, headings, left=("layer",))
