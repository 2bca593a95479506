"""Says what `engram depth` found: tables by layer, and the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

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
        "token. Loss: that of the prediction after the layer. Depth: layers of the base that the "
        f"layer resembles (CKA). Early layers: {_range(found.early_layers)}.\n"
    )
    yield _runs(found)
    yield "\n".join(["", *_answers(found), *found.notes])


def _layers(found: Depth) -> Table:
    rows = []
    columns: dict[str, tuple[Mapping[str, Sequence[float | None]], int]] = {
        "KL": (found.lens, 4),
        "loss": (found.lens_loss, 4),
        "depth": (found.effective_depth, 2),
    }
    for layer in range(max(map(len, found.lens.values()))):
        cells: list[object] = [f"{layer} memory" if layer in found.memory_layers else layer]
        for runs, digits in columns.values():
            for run in runs.values():
                value = run[layer] if layer < len(run) else None
                cells.append("" if value is None else f"{value:.{digits}f}")
        rows.append(cells)
    headings = ["layer", *(f"{name} {run}" for name in columns for run in found.lens)]
    return Table(rows, headings, left=["layer"])


def _runs(found: Depth) -> Table:
    rows = []
    for run in found.lens:
        gained = found.depth_gained.get(run)
        depth = "" if gained is None or run == "base" else f"{gained:+.2f}"
        early = (f"{it[run]:.4f}" for it in (found.early, found.early_loss))
        rows.append((run, *early, found.reaches[run], depth))
    headings = ("run", "early KL", "early loss", "reaches", "depth gained")
    return Table(rows, headings, left=["run"])


def _answers(found: Depth) -> Iterator[str]:
    for it in found.differences:
        yield _answer(it, found.documents)
    yield (
        f"Reaches: the layer from which on the KL is at most {found.threshold:.4f} nats, that of "
        "the base after its last early layer. Depth gained: mean depth less that of the base "
        "with itself."
    )
    yield (
        "The KL compares a run with itself, and is small where the last prediction knows as little "
        "as the first: read it beside the loss."
    )


def _answer(it: LensDifference, documents: int) -> str:
    """Say whether early layers of one run are nearer to its last prediction than those of another.

    Args:
        it: The difference.
        documents: Documents that the interval is over.
    """
    numbers = f"{it.nats:+.4f} nats"
    if it.low is None or it.high is None:
        return f"After early layers, {it.a} less {it.b}: {numbers}; one document gives no interval."
    numbers += (
        f", 95 % interval {it.low:+.4f} to {it.high:+.4f} ({plural(documents, 'document')}; paired "
        "bootstrap)"
    )
    if it.low <= 0 <= it.high:
        return f"After early layers, {it.a} and {it.b} cannot be distinguished: {numbers}."
    side = "nearer to" if it.high < 0 else "farther from"
    return f"After early layers, {it.a} is {side} its last prediction than {it.b} is: {numbers}."


def _range(layers: list[int]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
