"""Gates, writes and losses of every token of some windows, with the memory on and off.

Shapes: n tokens of all windows, L layers with a memory, M streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.evaluation.memory_watch import MemoryWatch
from engram.evaluation.switched_off import memory_off
from engram.training.document_loss import Window, read_windows

Steps = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class TokenReadings:
    """Gates, writes and losses at every token, window after window.

    Attributes:
        layer_ids: Layers with a memory, lowest first.
        gates: Gates, float32 ``[n, L, M]``; zero where a token is masked.
        write_norms: Norm of what is added over that of its stream, float32 ``[n, L, M]``.
        loss: Loss of each token given those before it in its window, in nats, float64 ``[n]``; NaN
            for the first token of a window.
        loss_off: The same without what the memory adds.
    """

    layer_ids: tuple[int, ...]
    gates: NDArray[np.float32]
    write_norms: NDArray[np.float32]
    loss: NDArray[np.float64]
    loss_off: NDArray[np.float64]


def read_tokens(
    model: Any, windows: Sequence[Window], progress: Steps | None = None
) -> TokenReadings:
    """Read windows twice, with the memory and without.

    Args:
        model: A model with memories.
        windows: The windows, no two of them of the same place.
        progress: Called with the tokens that were read so far in both passes, and their number.

    Raises:
        UsageError: The model has no memory.
    """
    ends = list(accumulate(len(window.ids) for window in windows))
    total = ends[-1]
    places = {
        (window.document, window.begin): slice(end - len(window.ids), end)
        for window, end in zip(windows, ends, strict=True)
    }
    loss, loss_off = np.full((2, total), np.nan)
    layers: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    done = 0
    for into, is_on in ((loss, True), (loss_off, False)):
        with MemoryWatch(model) if is_on else memory_off(model) as watch:
            for batch, losses in read_windows(model, windows):
                for row, (window, nats) in enumerate(zip(batch, losses, strict=True)):
                    place = places[window.document, window.begin]
                    into[place.start + 1 : place.stop] = nats
                    if watch is not None:
                        _keep(watch, layers, row, place, total)
                    done += len(window.ids)
                if progress is not None:
                    progress(done, 2 * total)
    layer_ids = tuple(sorted(layers))
    gates, writes = (np.stack([layers[it][i] for it in layer_ids], axis=1) for i in range(2))
    return TokenReadings(layer_ids, gates, writes, loss, loss_off)


def _keep(
    watch: MemoryWatch,
    layers: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]],
    row: int,
    place: slice,
    total: int,
) -> None:
    """Copy what was read in a row of the last pass to its place among all tokens."""
    length = place.stop - place.start
    for layer_id, reading in watch.readings.items():
        if layer_id not in layers:
            shape = (total, reading.gates.shape[-1])
            layers[layer_id] = np.empty(shape, np.float32), np.empty(shape, np.float32)
        gates, writes = layers[layer_id]
        gates[place] = reading.gates[row, :length].numpy()
        writes[place] = reading.relative_writes[row, :length].numpy()
