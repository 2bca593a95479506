"""`MeasuredRuns`: losses of a memory on, off and permuted, and of the models beside it.

Shapes: n counted tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engram.evaluation.counted_tokens import CountedTokens
from engram.evaluation.eval_options import EvalOptions
from engram.evaluation.finite_losses import demand_finite
from engram.evaluation.memory_watch import MemoryWatch
from engram.evaluation.needles import Needle, Trial, ask
from engram.evaluation.probes import GateCollector
from engram.evaluation.switched_off import memory_off
from engram.storage.files import Progress
from engram.training.controls import permute_rows
from engram.training.document_loss import DocumentLosses, Window

ON, OFF, PERMUTED, BASE = "on", "off", "permuted", "base"
# Runs of the model itself.
OWN_RUNS = (ON, OFF, PERMUTED)
# Runs whose losses are kept by token, and that are asked for facts; the first two read the text of
# the training, too.
_KEPT = (ON, OFF, BASE)
_LEARNED = (ON, OFF)


class MeasuredRuns:
    """Losses of one model after the other on the same tokens.

    Args:
        text: The tokens.
        learned: Tokens that the memory was trained on; None without any.
        trials: Contexts with facts to ask for.
        options: How they are read.
        names: Names of the runs to come.
        progress: Told the tokens that were read, by all runs, and their number.

    Attributes:
        runs: Losses by run, in the order of the names.
        nats: Losses of every counted token, of the runs on, off and base ``[n]``.
        learned_runs: Losses of the training text by run.
        needles: Answers of the runs on, off and base.
        gates: What the memory did in the run on.
    """

    def __init__(
        self,
        text: CountedTokens,
        learned: CountedTokens | None,
        trials: Sequence[Trial],
        options: EvalOptions,
        names: Sequence[str],
        progress: Progress | None,
    ) -> None:
        self._text, self._learned, self._trials = text, learned, trials
        self._batch_tokens, self._seed = options.batch_tokens, options.seed
        self._dtype = torch.bfloat16 if options.bf16 else None
        self._progress, self._done = progress, 0
        asked = sum(name in _KEPT for name in names) * sum(len(trial.ids) for trial in trials)
        again = 0 if learned is None else len(_LEARNED) * learned.tokens_read
        self._total = len(names) * text.tokens_read + again + asked
        self._names = names
        self._runs: dict[str, DocumentLosses] = {}
        self.nats: dict[str, NDArray[np.float64]] = {}
        self.learned_runs: dict[str, DocumentLosses] = {}
        self.needles: list[Needle] = []
        self.gates = GateCollector()

    @property
    def runs(self) -> dict[str, DocumentLosses]:
        """Losses by run, in the order of the names."""
        return {name: self._runs[name] for name in self._names}

    def measure_memory(self, model: Any) -> None:
        """Measure a model with a memory: on, off, and with its rows permuted."""
        with MemoryWatch(model) as watch:
            self.measure(ON, model, watch)
        with memory_off(model):
            self.measure(OFF, model)
        with permute_rows(model, self._seed):
            self.measure(PERMUTED, model)

    def measure(self, name: str, model: Any, watch: MemoryWatch | None = None) -> None:
        """Measure a model.

        Args:
            name: Name of the run.
            model: The model.
            watch: Watches its memory.
        """
        nats = self._losses(name, model, self._text, watch)
        self._runs[name] = self._text.by_document(nats)
        if name in _LEARNED and self._learned is not None:
            again = self._losses(name, model, self._learned)
            self.learned_runs[name] = self._learned.by_document(again)
        if name in _KEPT:
            self.nats[name] = nats
            self._ask(name, model)

    def _losses(
        self, name: str, model: Any, text: CountedTokens, watch: MemoryWatch | None = None
    ) -> NDArray[np.float64]:
        def told(windows: list[Window]) -> None:
            if watch is not None:
                self.gates.add(windows, watch.readings)
            self._tell(sum(len(window.ids) for window in windows))

        nats = text.losses(model, batch_tokens=self._batch_tokens, dtype=self._dtype, told=told)
        demand_finite(nats, name)
        return nats

    def _ask(self, name: str, model: Any) -> None:
        for trial in self._trials:
            self.needles += ask(model, name, trial, self._dtype)
            self._tell(len(trial.ids))

    def _tell(self, tokens: int) -> None:
        self._done += tokens
        if self._progress is not None:
            self._progress(self._done, self._total)
