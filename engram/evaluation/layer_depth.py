"""`measure_depth`: does a memory relieve early layers? Logit lens and CKA against the base.

The analysis of arXiv 2601.07372, section 6.1. Every run reads the same tokens. Of a window the
first and the last token are not counted. The last has no token after it whose loss could be taken.
The first has nothing before it, and many models give it a state so much larger than all others that
it alone would decide CKA.

Shapes: n documents, N tokens, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engram.arguments import checked
from engram.corpus.text.text_options import TextOptions
from engram.errors import InputError
from engram.evaluation.alignment import (
    FEWEST_TOKENS,
    Alignment,
    Grams,
    centred_grams,
    effective_depths,
    minibatches,
)
from engram.evaluation.depth_options import DepthOptions
from engram.evaluation.depth_result import Depth, LensDifference, early_layers
from engram.evaluation.evaluated_text import HELD_OUT_NOTE, EvaluatedText, choose_documents
from engram.evaluation.finite_losses import demand_finite
from engram.evaluation.layer_states import LayerWatch
from engram.evaluation.lens import Lens
from engram.evaluation.open_models import OpenModel, Tables, find_others, open_compared, open_model
from engram.evaluation.run_change import run_change
from engram.evaluation.switched_off import memory_off
from engram.evaluation.window_tokens import window_tokens
from engram.hf.unwired import base_of
from engram.hf.wiring import find_layers
from engram.storage.files import Progress
from engram.training.document_loss import (
    DocumentLosses,
    Window,
    cut_windows,
    read_windows,
)
from engram.training.documents import TrainingDocuments
from engram.training.learned_positions import demand_positions

# Tokens of a forward pass, whose states are held for all layers.
_BATCH_TOKENS = 2048


@checked()
def measure_depth(
    model: str | Path,
    data: Any,
    adapter: str | Path | None = None,
    *,
    against: Sequence[str | Path] = (),
    base: str | Path | None = None,
    options: DepthOptions | None = None,
    text: TextOptions | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    tables: Tables = "ram",
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Depth:
    """Compare the layers of a model with a memory with those of its base, and of controls.

    At most two models are in memory at a time: the first, and one that it is compared with. Beside
    them are the states of a batch, and of the base 256 bytes for each layer and token.

    Args:
        model: An attached folder or hub id; with an adapter, its base.
        data: A text (file or folder), a folder of token shards, or an iterable of documents. Of the
            text that trained the memory, only documents that were held out are read.
        adapter: A memory by itself, that lies beside its base.
        against: Controls: attached folders, dense controls, or base models.
        base: Another base to compare with, such as one trained on the same text without a memory;
            the model without its memory when None.
        options: How much is read, and how.
        text: How a text is read.
        revision: Branch, tag or commit of the model on the hub.
        trust_remote_code: Run the code beside the weights, where the base is defined there.
        tables: Place of the tables, see `engram.load`.
        tokenizer: The model's tokenizer; its own when None.
        device: Device of the models; a GPU where there is one, when None.
        progress: Called with the tokens read so far, and those of all runs.

    Returns:
        Divergences, alignments and effective depths of each run: ``on``; ``base``; ``off`` where
        the base is another model than the one without its memory; and those of `against`.

    Raises:
        EngramError: A model or the text cannot be read.
        InputError: There are too few tokens.
        MismatchError: A model has another tokenizer.
    """
    options = DepthOptions() if options is None else options
    others = find_others(base, against, {"on", "off"})
    opened = open_model(
        model,
        adapter,
        tokenizer=tokenizer,
        revision=revision,
        trust_remote_code=trust_remote_code,
        tables=tables,
        device=device,
    )
    documents = TrainingDocuments(data, opened.tokenizer, options=text, held_out_share=None)
    chosen = choose_documents(documents, opened.training, options.tokens, options.seed)
    context = window_tokens(opened, options.context)
    reader = _Reader(chosen.main, context, options.seed, progress)
    reader.expect((2 if base is None else 3) + len(against))
    how: dict[str, Any] = {"trust_remote_code": trust_remote_code, "tables": tables}
    first = base_of(opened.model) if base is None else open_compared(base, opened, **how)
    runs = {"base": reader.read("base", first)}
    del first
    runs = {"on": reader.read("on", opened.model), **runs}
    if base is not None:
        with memory_off(opened.model):
            runs["off"] = reader.read("off", opened.model)
    for name, path in others.items():
        if name != "base":
            runs[name] = reader.read(name, open_compared(path, opened, **how))
    source = str(data) if isinstance(data, (str, Path)) else "documents"
    return _result(opened, source, base, chosen, context, options, reader.tokens, runs)


@dataclass(frozen=True, eq=False)
class _Run:
    """Measurements of one model.

    Attributes:
        divergences: Sum of the divergence after each layer over the tokens of each document,
            float64 ``[n, L]``.
        losses: That of the loss.
        cka: CKA of each layer of the base (first axis) with each of this model.
    """

    divergences: NDArray[np.float64]
    losses: NDArray[np.float64]
    cka: list[list[float]]


class _Reader:
    """Reads the same windows with one model after the other.

    Args:
        documents: Token ids of each ``[any]``.
        context: Tokens of a window.
        seed: Decides the minibatches.
        progress: Called with the tokens read so far, and those of all runs.

    Attributes:
        tokens: Counted tokens of each document, int64 ``[n]``.
    """

    def __init__(
        self,
        documents: list[NDArray[Any]],
        context: int,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self._windows = cut_windows(documents, context)
        self._context, self._seed, self._progress = context, seed, progress
        self._done = self._total = 0
        self.tokens = np.zeros(len(documents), np.int64)
        for window in self._windows:
            self.tokens[window.document] += len(window.ids) - 2
        if self.tokens.sum() < FEWEST_TOKENS:
            raise InputError(
                f"At least {FEWEST_TOKENS} tokens between the first and the last of a window are "
                f"needed, got {self.tokens.sum()}.",
                "Give more text.",
                tokens=int(self.tokens.sum()),
            )
        # Gram matrices of the first model that reads, the base, by minibatch.
        self._base: list[Grams] = []

    def expect(self, runs: int) -> None:
        """State the number of models to come, of which the progress is told."""
        self._total = runs * sum(len(window.ids) for window in self._windows)

    def read(self, name: str, model: Any) -> _Run:
        """Run a model on all windows; the first one is the base that all are aligned with.

        Args:
            name: Name of the run.
            model: The model.

        Raises:
            InputError: A loss or a divergence is not a finite number.
        """
        demand_positions(model, self._context)
        lens, alignment, is_base = Lens(model), Alignment(), not self._base
        order = torch.Generator().manual_seed(self._seed)
        shape = (len(self.tokens), len(find_layers(model)[1]))
        divergences, losses = np.zeros(shape), np.zeros(shape)
        count = 0
        with LayerWatch(model) as watch:
            passes = read_windows(model, self._windows, batch_tokens=_BATCH_TOKENS)
            for batch, _ in passes:
                counted = _counted(watch, batch)
                reading = lens.read(counted.states, counted.following)
                demand_finite((reading.losses + reading.divergences).sum(dim=0).numpy(), name)
                np.add.at(divergences, counted.documents, reading.divergences.T.numpy())
                np.add.at(losses, counted.documents, reading.losses.T.numpy())
                for places in minibatches(len(counted.documents), order):
                    own = centred_grams([it[places.to(it.device)] for it in counted.states])
                    if is_base:
                        self._base.append(own)
                    alignment.add(own, self._base[count])
                    count += 1
                self._tell(batch)
        return _Run(divergences, losses, alignment.matrix())

    def _tell(self, batch: list[Window]) -> None:
        self._done += sum(len(window.ids) for window in batch)
        if self._progress is not None:
            self._progress(self._done, self._total)


class _Counted(NamedTuple):
    """The N counted tokens of a forward pass.

    Attributes:
        states: States after each layer ``[N, D]`` or ``[N, M, D]``.
        following: Ids of the tokens that follow ``[N]``.
        documents: Document of each ``[N]``.
    """

    states: list[Tensor]
    following: Tensor
    documents: NDArray[np.int64]


def _counted(watch: LayerWatch, batch: list[Window]) -> _Counted:
    """Find the counted tokens of a pass.

    Args:
        watch: Has the states of the pass.
        batch: The windows, row by row.
    """
    lengths = torch.tensor([len(window.ids) for window in batch])
    longest = int(lengths.max())
    places = torch.arange(longest)
    row, column = ((places > 0) & (places < lengths[:, None] - 1)).nonzero(as_tuple=True)
    states = watch.take((len(batch), longest))
    return _Counted(
        states=[it[row.to(it.device), column.to(it.device)] for it in states],
        following=torch.from_numpy(
            np.concatenate([window.ids[2:] for window in batch]).astype(np.int64)
        ),
        documents=np.asarray([window.document for window in batch])[row.numpy()],
    )


def _result(
    opened: OpenModel,
    text: str,
    base: str | Path | None,
    chosen: EvaluatedText,
    context: int,
    options: DepthOptions,
    tokens: NDArray[np.int64],
    runs: dict[str, _Run],
) -> Depth:
    def by_layer(sums: NDArray[np.float64]) -> list[float]:
        found: list[float] = (sums.sum(axis=0) / tokens.sum()).tolist()
        return found

    first = min(opened.config.layer_ids)
    pairs = [(name, "base") for name in runs if name != "base"]
    pairs += [("on", name) for name in runs if name not in ("on", "off", "base")]
    return Depth(
        target=opened.name,
        base=None if base is None else str(base),
        text=text,
        split=chosen.split,
        documents=int((tokens > 0).sum()),
        tokens=int(tokens.sum()),
        context=context,
        memory_layers=tuple(sorted(opened.config.layer_ids)),
        lens={name: by_layer(run.divergences) for name, run in runs.items()},
        lens_loss={name: by_layer(run.losses) for name, run in runs.items()},
        differences=tuple(_difference(runs, pair, first, tokens) for pair in pairs),
        cka={name: run.cka for name, run in runs.items()},
        nearest=options.nearest,
        effective_depth={
            name: effective_depths(run.cka, options.nearest) for name, run in runs.items()
        },
        notes=_notes(opened, base, chosen, options, len(runs["base"].cka)),
    )


def _difference(
    runs: dict[str, _Run], pair: tuple[str, str], first: int, tokens: NDArray[np.int64]
) -> LensDifference:
    """Compare two runs in their early layers, with an interval where there are two documents.

    Args:
        runs: All runs.
        pair: Names of the two.
        first: The first layer that reads the memory.
        tokens: Counted tokens of each document ``[n]``.
    """
    early = []
    for name in pair:
        sums = runs[name].divergences
        nats = sums[:, early_layers(sums.shape[1], first)].mean(axis=1)
        # The bytes of the documents have no part in it.
        early.append(DocumentLosses(nats, tokens, tokens, False))
    found = run_change(*early)
    return LensDifference(*pair, found.nats, found.low, found.high)


def _notes(
    opened: OpenModel,
    base: str | Path | None,
    chosen: EvaluatedText,
    options: DepthOptions,
    layers: int,
) -> tuple[str, ...]:
    notes = [*chosen.notes]
    if chosen.split == "held_out":
        notes.append(HELD_OUT_NOTE)
    if base is None and opened.base_was_trained:
        notes.append(
            "The base is the model without its memory, whose weights were trained beside it: a "
            "base that was trained alone tells more (engram train --control none, then --base)."
        )
    if options.nearest >= layers:
        notes.append(
            f"The base has {layers} layers: effective depths average all of them, and tell little."
        )
    return tuple(notes)
