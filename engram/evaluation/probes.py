"""`LayerProbe`: what a layer's memory does, in a few numbers: gates, writes, and size of its rows.

They tell a memory that was never trained, one around a random table, and a trained one from each
other; how good any of them is, losses say.

Shapes: B sequences, T tokens, M streams, n counted tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engram.evaluation.memory_watch import Reading
from engram.nn import EngramModule
from engram.training.controls import memories_of
from engram.training.document_loss import Window

# Rows of each table that are read.
_SAMPLE = 4096


@dataclass(frozen=True)
class LayerProbe:
    """Numbers of one layer's memory, over all streams of the tokens that predict a counted one.

    Attributes:
        layer_id: The layer.
        gate_quartiles: Quartiles of the gates.
        gate_mean: Their mean.
        write_norm: Median norm of what is added, over that of its stream.
        row_rms: Root mean square of the values of a sample of rows.
        row_norm_over_start: The same over the root mean square that all tables started with; None
            where they started at zero, or nobody knows.
    """

    layer_id: int
    gate_quartiles: tuple[float, float, float]
    gate_mean: float
    write_norm: float
    row_rms: float
    row_norm_over_start: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "gate_quartiles": list(self.gate_quartiles)}


class GateCollector:
    """Collects the gates and writes of forward passes."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[list[NDArray[Any]], list[NDArray[Any]]]] = {}

    def add(self, windows: Sequence[Window], readings: Mapping[int, Reading]) -> None:
        """Add a pass.

        Args:
            windows: The windows that it read, row by row.
            readings: Its readings, by layer.
        """
        for layer_id, reading in readings.items():
            kept = self._found.setdefault(layer_id, ([], []))
            for values, parts in zip((reading.gates, reading.relative_writes), kept, strict=True):
                parts += [
                    row[: len(window.ids) - 1].reshape(-1).numpy().copy()
                    for window, row in zip(windows, values, strict=True)
                ]

    def probes(
        self, model: Any, training: Mapping[str, Any] | None, seed: int
    ) -> tuple[LayerProbe, ...]:
        """Return the numbers of every layer, lowest first.

        Args:
            model: The model.
            training: Numbers of the run that trained it; None if unknown.
            seed: Seed of the sample of rows.
        """
        start, found = start_rms(training), []
        memories = {int(memory.layer_id or 0): memory for memory in memories_of(model)}
        for layer_id in sorted(self._found):
            gates, writes = map(np.concatenate, self._found[layer_id])
            low, middle, high = np.quantile(gates, [0.25, 0.5, 0.75]).tolist()
            row_rms = _row_rms(memories[layer_id], seed)
            found.append(
                LayerProbe(
                    layer_id=layer_id,
                    gate_quartiles=(low, middle, high),
                    gate_mean=float(gates.mean(dtype=np.float64)),
                    write_norm=float(np.median(writes)),
                    row_rms=row_rms,
                    row_norm_over_start=row_rms / start if start else None,
                )
            )
        return tuple(found)


def start_rms(training: Mapping[str, Any] | None) -> float | None:
    """Return the root mean square of a run's tables before their first step; None if unknown."""
    if training is None:
        return None
    stated: float | None = training.get("forecast", {}).get("start_rms")
    if stated is None and training.get("options", {}).get("control") == "frozen-random":
        return 1.0  # the control draws its rows from N(0, 1)
    return stated


@torch.no_grad()
def _row_rms(memory: EngramModule, seed: int) -> float:
    """Return the root mean square of the values of a sample of rows, wherever they lie."""
    heads = memory.multi_head_embedding
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(sum(heads.head_sizes), (_SAMPLE,), generator=generator, device="cpu")
    rows = heads.rows(ids.unique().to(heads.offsets.device)).double()
    return sqrt(float(rows.square().mean()))
