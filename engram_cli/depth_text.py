"""Says what `engram depth` found: tables by layer, and the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engram.evaluation.depth_result import early_layers
from engram.units import plural
from engram_cli.output import Shown, Table

if TYPE_CHECKING:
    from engram.evaluation.depth_result import Depth, LensDifference


def show(found: Depth) -> Shown:
    """Yield the table of layers, that of runs, and the answer.

    Args:
        found: What was measured.
    """
    base = "the model without its memory" if found.base is None else found.base
    yield (
        f"Layers of {found.target}; base: {base}. Estimated over {plural(found.tokens, 'token')} "
        f"of {plural(found.documents, 'document')}.\n"
    )
    yield _layers(found)
    yield (
        "\nKL: divergence of the prediction after the layer from the run's own last one, nats a "
        "token. Depth: layers of the base that the layer resembles (CKA); what the base gets with "
        "itself is the mark.\n"
    )
    yield _runs(found)
    yield "\n".join(["", *_answers(found), *found.notes])


def _layers(found: Depth) -> Table:
    rows = []
    for layer in range(max(map(len, found.lens.values()))):
        cells: list[object] = [f"{layer} memory" if layer in found.memory_layers else layer]
        for columns, digits in ((found.lens, 4), (found.effective_depth, 2)):
            for run in columns.values():
                value = run[layer] if layer < len(run) else None
                cells.append("" if value is None else f"{value:.{digits}f}")
        rows.append(cells)
    headings = ["layer", *(f"KL {run}" for run in found.lens)]
    headings += [f"depth {run}" for run in found.effective_depth]
    return Table(rows, headings, left=["layer"])


def _runs(found: Depth) -> Table:
    early = early_layers(found.layers).stop
    rows = []
    for run, nats in found.loss.items():
        gained = found.depth_gained.get(run)
        depth = "" if gained is None or run == "base" else f"{gained:+.2f}"
        rows.append((run, f"{nats:.4f}", f"{found.early[run]:.4f}", found.reaches[run], depth))
    headings = ("run", "loss", f"KL of {plural(early, 'early layer')}", "reaches", "depth gained")
    return Table(rows, headings, left=["run"])


def _answers(found: Depth) -> Iterator[str]:
    for it in found.differences:
        yield _answer(it, found.documents)
    yield (
        f"Reaches: the layer from which on the KL is at most {found.threshold:.4f} nats, that of "
        f"the base after layer {early_layers(len(found.lens['base'])).stop - 1}. The KL compares "
        "a run with itself: the loss says whether its last prediction is any good."
    )


def _answer(it: LensDifference, documents: int) -> str:
    """Say whether early layers of one run are nearer to its last prediction than those of another.

    Args:
        it: The difference.
        documents: Documents that the interval is over.
    """
    numbers = f"{it.nats:+.4f} nats"
    if it.low is None or it.high is None:
        return f"Early layers, {it.a} less {it.b}: {numbers}; one document gives no interval."
    numbers += (
        f", 95 % interval {it.low:+.4f} to {it.high:+.4f} ({plural(documents, 'document')}; paired "
        "bootstrap)"
    )
    if it.low <= 0 <= it.high:
        return f"Early layers of {it.a} and {it.b} are not told apart: {numbers}."
    side = "nearer to" if it.high < 0 else "farther from"
    return f"Early layers of {it.a} are {side} its last prediction than those of {it.b}: {numbers}."
