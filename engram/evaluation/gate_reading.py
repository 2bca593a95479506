"""`read_gates`: every gate of a memory at every token of a text, and the n-grams that open them.

Shapes: T tokens of the text, L layers with a memory, M streams, O orders, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.text_rows import ngrams_of, rows_of
from engram.arguments import checked
from engram.corpus.text.text_options import TextOptions
from engram.errors import InputError, UsageError
from engram.evaluation.evaluated_text import HELD_OUT_NOTE, choose_documents
from engram.evaluation.gate_options import GateOptions
from engram.evaluation.head_collisions import read_collisions
from engram.evaluation.open_models import OpenModel, Tables, open_model
from engram.evaluation.telling_ngrams import TellingNgram, find_telling
from engram.evaluation.token_readings import TokenReadings, read_tokens
from engram.evaluation.token_texts import TokenTexts, cut_text
from engram.evaluation.window_tokens import window_tokens
from engram.training.document_loss import Window, cut_windows, window_starts
from engram.training.documents import TrainingDocuments
from engram.units import plural

_CONTEXT = 2048
# Of a text whose every token is shown.
_MOST_TOKENS = 1_000_000


@dataclass(frozen=True, eq=False)
class TextGates:
    """A text, and what the memory did at each of its tokens.

    Attributes:
        tokens: The tokens.
        readings: Gates, writes and losses at each.
        first: Position of the first token of the n-gram of each order that ends at each ``[T, O]``.
        rows: Rows of the layers' tables that each reads ``[T, L, O, H]``, the lowest layer first.
    """

    tokens: TokenTexts
    readings: TokenReadings
    first: NDArray[np.int64]
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class GateReading:
    """Result of `read_gates`.

    Attributes:
        target: The memory's name.
        layout: Its layout.
        layer_ids: Layers with a memory, lowest first.
        streams: Streams M, each of which has a gate.
        orders: N-gram orders.
        text: What happened at each token of the text; None without one.
        telling: The n-grams of a data set that tell most; None without one.
        collisions: Load and collisions of each head, see `read_collisions`; None if not given.
        notes: Sentences on how they were read.
    """

    target: str
    layout: str
    layer_ids: tuple[int, ...]
    streams: int
    orders: tuple[int, ...]
    text: TextGates | None
    telling: tuple[TellingNgram, ...] | None
    collisions: dict[str, Any] | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        count = 0 if self.text is None else len(self.text.tokens.ids)
        gates = f"{plural(len(self.layer_ids), 'layer')} of {plural(self.streams, 'gate')}"
        return f"<GateReading of {self.target}: {plural(count, 'token')}, {gates}>"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram gates --json`` prints."""
        return {
            "schema": "engram.gates/1",
            "target": self.target,
            "text": "" if self.text is None else self.text.tokens.text,
            "layout": self.layout,
            "layers": list(self.layer_ids),
            "streams": self.streams,
            "orders": list(self.orders),
            "tokens": [] if self.text is None else self._tokens(self.text),
            "collisions": self.collisions,
            "telling": None if self.telling is None else [it.to_dict() for it in self.telling],
            "notes": list(self.notes),
        }

    def _tokens(self, text: TextGates) -> list[dict[str, Any]]:
        read = text.readings
        pairs = [(layer, stream) for layer in self.layer_ids for stream in range(self.streams)]
        gates, writes = (it.reshape(len(it), -1).tolist() for it in (read.gates, read.write_norms))
        losses = zip(read.loss.tolist(), read.loss_off.tolist(), strict=True)
        tokens = []
        for position, (loss, loss_off) in enumerate(losses):
            values = zip(pairs, gates[position], writes[position], strict=True)
            tokens.append(
                {
                    "text": text.tokens.texts[position],
                    "id": text.tokens.ids[position],
                    "loss": _finite(loss),
                    "loss_off": _finite(loss_off),
                    "gates": [
                        {
                            "layer_id": layer_id,
                            "stream": stream,
                            "gate": _finite(gate),
                            "write_norm": _finite(write),
                        }
                        for (layer_id, stream), gate, write in values
                    ],
                    "ngrams": self._ngrams(text, position),
                }
            )
        return tokens

    def _ngrams(self, text: TextGates, position: int) -> list[dict[str, Any]]:
        rows = text.rows[position].tolist()
        return [
            {
                "order": order,
                "text": text.tokens.ngram(int(text.first[position, i]), position),
                "rows": [
                    {"layer_id": layer_id, "rows": of_layer[i]}
                    for layer_id, of_layer in zip(self.layer_ids, rows, strict=True)
                ],
            }
            for i, order in enumerate(self.orders)
        ]


@checked()
def read_gates(
    model: str | Path | OpenModel,
    text: str | None = None,
    adapter: str | Path | None = None,
    *,
    data: str | Path | None = None,
    rules: TextOptions | None = None,
    stats: str | Path | None = None,
    options: GateOptions | None = None,
    tokenizer: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    tables: Tables = "ram",
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GateReading:
    """Read every gate of a memory, in every layer and stream, at every token of a text.

    Args:
        model: An attached folder or hub id; with an adapter, its base; or what `open_model`
            returned, with which the arguments of loading have no effect.
        text: The text; no special tokens are added.
        adapter: A memory by itself, that lies beside its base.
        data: A folder of token shards, or a text of any length (file or folder): names the n-grams
            with the highest mean gates, and those that help most. Of the text that trained the
            memory, only documents that were held out are read.
        rules: How such a text is read.
        stats: Output of ``engram hash --stats --json`` for this memory, for the load and collisions
            of its heads.
        options: How much is read at once, and how many n-grams are named.
        tokenizer: The model's tokenizer, see `open_model`.
        revision: Branch, tag or commit of the model on the hub.
        trust_remote_code: Run the code beside the weights, where the base is defined there.
        tables: Place of the tables, see `engram.load`.
        device: Device of the model; a GPU where there is one, when None.
        progress: Called with the tokens that were read so far, and their number; for the text and
            for the data.

    Returns:
        Gates, writes, losses and rows; `to_dict()` is what ``engram gates --json`` prints.

    Raises:
        UsageError: There is neither a text nor data.
        InputError: The text has no tokens or more than a million, or the data cannot be read.
        MismatchError: The statistics, the data or the tokenizer are for another memory.
        EngramError: The model cannot be loaded; see `engram.load`.

    Examples:
        >>> import engram.evaluation
        >>> reading = engram.evaluation.read_gates("attached", "the Milky Way")
        >>> reading.text.readings.gates.shape[1:] == (len(reading.layer_ids), reading.streams)
        True
    """
    if text is None and data is None:
        raise UsageError("There is nothing to read gates of.", "Give a text, or data.")
    options = options or GateOptions()
    opened = model
    if not isinstance(opened, OpenModel):
        opened = open_model(
            opened,
            adapter,
            tokenizer=tokenizer,
            revision=revision,
            trust_remote_code=trust_remote_code,
            tables=tables,
            device=device,
        )
    addresses, notes = opened.addresses, list[str]()
    collisions = None if stats is None else read_collisions(Path(stats), addresses)
    context = window_tokens(opened, options.context, _CONTEXT)
    shown = None
    if text is not None:
        shown = _read_text(opened, text, context, notes, progress)
    telling = None
    if data is not None:
        documents = TrainingDocuments(data, opened.tokenizer, options=rules, held_out_share=None)
        chosen = choose_documents(documents, opened.training, options.tokens, options.seed)
        if chosen.split == "held_out":
            notes.append(HELD_OUT_NOTE)
        notes += [*chosen.notes, f"No n-gram reaches beyond a window of {context:,} tokens."]
        windows = cut_windows(chosen.main, context)
        readings = read_tokens(opened.model, windows, progress)
        telling = find_telling(readings, windows, addresses, opened.tokenizer, options)
    return GateReading(
        target=opened.name,
        layout=opened.config.layout,
        layer_ids=tuple(sorted(addresses.layer_ids)),
        streams=opened.config.hc_mult,
        orders=addresses.orders,
        text=shown,
        telling=telling,
        collisions=collisions,
        notes=tuple(notes),
    )


def _read_text(
    opened: OpenModel,
    text: str,
    context: int,
    notes: list[str],
    progress: Callable[[int, int], None] | None,
) -> TextGates:
    """Read a text, in windows where it is longer than the context."""
    tokens = cut_text(opened.tokenizer, text)
    ids = np.array(tokens.ids)
    if len(ids) > _MOST_TOKENS:
        raise InputError(
            f"Every token of a text of up to {_MOST_TOKENS:,} is shown, got {len(ids):,}.",
            "Give a part of it, or read it with --text and --tokens (in Python, data).",
            tokens=len(ids),
        )
    begins = range(0, len(ids), context)
    if len(begins) > 1:
        notes.append(
            f"The text has {len(ids):,} tokens and is read in {len(begins)} windows of up to "
            f"{context:,}: n-grams and losses begin anew at every {context:,}th token."
        )
    windows = [Window(0, begin, ids[begin : begin + context]) for begin in begins]
    readings = read_tokens(opened.model, windows, progress)
    starts = window_starts(windows)
    addresses = opened.addresses
    rows = rows_of(addresses, ids, starts).rows[:, _ascending(addresses)]
    return TextGates(tokens, readings, ngrams_of(addresses, ids, starts).first, rows)


def _ascending(addresses: Addresses) -> list[int]:
    """Return the places of the layers in hash order, the lowest layer first."""
    return sorted(range(len(addresses.layers)), key=lambda slot: addresses.layers[slot].layer_id)


def _finite(value: float) -> float | None:
    """Return a number as JSON can hold it."""
    return value if math.isfinite(value) else None
