"""Looks up what a text reads from a stored memory: ids, rows and their norms; only those rows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.text_rows import ngrams_of, rows_of
from engram.addressing.tokenizer_files import TokenizerFile
from engram.arguments import checked
from engram.checkpoints.read.readable_memory import ReadableMemory, open_readable
from engram.config.engram_config import EngramConfig
from engram.errors import InputError
from engram.storage.file_names import refuse_empty


@dataclass(frozen=True)
class TextToken:
    """A token of the text.

    Attributes:
        token_id: Its id.
        text: The piece of the text that it stands for.
    """

    token_id: int
    text: str


@dataclass(frozen=True)
class Ngram:
    """An n-gram of the text as the memory sees it.

    Attributes:
        text: Its tokens' text, at the first of its positions; where looking back is blocked, less
            than `order` tokens.
        positions: Positions of its last token.
    """

    text: str
    positions: list[int]


@dataclass(frozen=True)
class SharedRow:
    """A row that several n-grams of the text read.

    Attributes:
        order: Their order.
        head: The hash head.
        row: Row of the layer's table.
        ngrams: The n-grams, two at least.
    """

    order: int
    head: int
    row: int
    ngrams: list[Ngram]


@dataclass(frozen=True, eq=False)
class LayerLookup:
    """The rows of one layer that a text reads.

    Attributes:
        layer_id: The layer.
        table_rows: Rows of its table.
        hash_ids: Rows of each head's part, ``[token, order, head]``.
        rows: The same as rows of the table.
        norms: Euclidean norms of the rows, of the same shape.
        shared: Rows that different n-grams share.
    """

    layer_id: int
    table_rows: int
    hash_ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    norms: NDArray[np.float64]
    shared: tuple[SharedRow, ...]

    @property
    def rows_read(self) -> int:
        """Different rows that were read."""
        return len(np.unique(self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Return it in the terms of ``--json``."""
        return {
            "layer_id": self.layer_id,
            "table_rows": self.table_rows,
            "rows_read": self.rows_read,
            "hash_ids": self.hash_ids.tolist(),
            "rows": self.rows.tolist(),
            "norms": self.norms.tolist(),
            "shared": list(map(asdict, self.shared)),
        }


@dataclass(frozen=True, repr=False)
class TextLookup:
    """The rows that a text reads from a memory.

    Attributes:
        target: The memory's name.
        text: The text.
        layout: Its layout.
        table_dtype: dtype of its tables, of a GGUF file and of packed rows their encoding.
        heads: Its heads for each order.
        orders: Its n-gram orders.
        tokens: The text's tokens.
        repeated: N-grams that occur more than once, by order: they read the same rows again.
        layers: What each layer reads, in hash order.
        notes: What should be said with them.
    """

    target: str
    text: str
    layout: str
    table_dtype: str
    heads: int
    orders: tuple[int, ...]
    tokens: tuple[TextToken, ...]
    repeated: dict[int, tuple[Ngram, ...]]
    layers: tuple[LayerLookup, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        rows = sum(layer.rows_read for layer in self.layers)
        return f"<TextLookup in {self.target}: {len(self.tokens)} tokens, {rows:,} rows>"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram lookup --json`` prints."""
        return {
            "schema": "engram.lookup/1",
            "target": self.target,
            "layout": self.layout,
            "table_dtype": self.table_dtype,
            "text": self.text,
            "orders": list(self.orders),
            "heads": self.heads,
            "tokens": [{"position": i, **vars(token)} for i, token in enumerate(self.tokens)],
            "repeated": [
                {"order": order, **vars(ngram)}
                for order, ngrams in self.repeated.items()
                for ngram in ngrams
            ],
            "notes": list(self.notes),
            "layers": [layer.to_dict() for layer in self.layers],
        }


@checked()
def look_up(
    target: str | Path,
    text: str,
    *,
    config: str | Path | EngramConfig | None = None,
    tokenizer: str | Path | TokenizerFile | None = None,
    revision: str | None = None,
) -> TextLookup:
    """Read the rows of a memory that a text touches. Nothing else of its tables is read.

    Args:
        target: An attached folder, an adapter, a folder or file with published names, or a GGUF
            file or folder, here or on the hub (``organisation/name/file.gguf``).
        text: Any text; no special tokens are added.
        config: The memory, or its config file, where the checkpoint does not state it.
        tokenizer: The model's tokenizer, or its name or path; the one in the folder, or in the GGUF
            file, when None.
        revision: Branch, tag or commit of a GGUF file on the hub.

    Returns:
        Tokens, rows and norms; `to_dict()` is what ``engram lookup --json`` prints.

    Raises:
        InputError: The text has no tokens, or there is no memory.
        MissingFileError: Files or the tokenizer are not there.
        MismatchError: It is another tokenizer, or the constants of a GGUF file do not fit.
        LayoutError: The tokenizer in a GGUF file, or the encoding of its rows, is not known.
        UsageError: A config was given, and the files state their own; or a revision of what is not
            a GGUF file on the hub.

    Examples:
        >>> import engram
        >>> found = engram.look_up("attached", "the Milky Way")
        >>> found.layers[0].rows.shape[0] == len(found.tokens)
        True
    """
    refuse_empty(target, "the checkpoint")
    memory = open_readable(target, config, tokenizer, revision)
    addresses, tokenizer = memory.addresses, memory.tokenizer
    encoded = tokenizer.tokenizer.encode(text, add_special_tokens=False)
    if not encoded.ids:
        raise InputError("The text has no tokens.", "Give a text, in quotes.", text=text)
    tokens = tuple(
        TextToken(token_id, text[first:last])
        for token_id, (first, last) in zip(encoded.ids, encoded.offsets, strict=True)
    )
    read, found = rows_of(addresses, encoded.ids), ngrams_of(addresses, encoded.ids)
    ngrams = {
        order: _ngrams(found.slots[:, :order], found.first[:, i], text, encoded.offsets)
        for i, order in enumerate(addresses.orders)
    }
    layers = []
    for slot, layer in enumerate(addresses.layers):
        rows = read.rows[:, slot]
        table = memory.tables[layer.layer_id]
        distinct, inverse = np.unique(rows, return_inverse=True)
        norms = np.linalg.norm(table.read_rows(distinct), axis=1)[inverse].reshape(rows.shape)
        layers.append(
            LayerLookup(
                layer_id=layer.layer_id,
                table_rows=table.rows,
                hash_ids=read.hash_ids[:, slot],
                rows=rows,
                norms=norms,
                shared=_shared(rows, ngrams, addresses),
            )
        )
    repeated = {
        order: tuple(ngram for ngram in found if len(ngram.positions) > 1)
        for order, found in ngrams.items()
    }
    return TextLookup(
        target=str(target),
        text=text,
        layout=addresses.layout.name,
        table_dtype=memory.table_dtype,
        heads=addresses.n_heads,
        orders=addresses.orders,
        tokens=tokens,
        repeated=repeated,
        layers=tuple(layers),
        notes=_notes(memory, text),
    )


def _notes(memory: ReadableMemory, text: str) -> tuple[str, ...]:
    """Say where an engine may read other rows of a text than the tokenizer's rules give."""
    composed, normalizer = normalize("NFC", text), memory.tokenizer.tokenizer.normalizer
    if not memory.is_gguf or normalizer is None or composed == text:
        return ()
    if normalizer.normalize_str(text) != normalizer.normalize_str(composed):
        return ()
    return (
        "The tokenizer composes this text (NFC), as Hugging Face's did when the memory was "
        "trained; llama.cpp, to our knowledge, does not, and then reads other rows of it.",
    )


def _ngrams(
    slots: NDArray[np.int64],
    first: NDArray[np.int64],
    text: str,
    offsets: Sequence[tuple[int, int]],
) -> list[Ngram]:
    """Find the different n-grams of one order, in the order of the text.

    Args:
        slots: What each position reads, the newest first ``[T, order]``.
        first: Position of the first token of the n-gram that ends at each position ``[T]``.
        text: The text.
        offsets: Where each token begins and ends in it.
    """
    positions: dict[tuple[int, ...], list[int]] = {}
    for position, key in enumerate(map(tuple, slots.tolist())):
        positions.setdefault(key, []).append(position)
    return [
        Ngram(text[offsets[min(first[found[0]], found[0])][0] : offsets[found[0]][1]], found)
        for found in positions.values()
    ]


def _shared(
    rows: NDArray[np.int64], ngrams: dict[int, list[Ngram]], addresses: Addresses
) -> tuple[SharedRow, ...]:
    """Find rows that different n-grams read; those of one head never meet those of another."""
    shared = []
    for (i, order), head in product(enumerate(addresses.orders), range(addresses.n_heads)):
        readers: dict[int, list[Ngram]] = {}
        for ngram in ngrams[order]:
            readers.setdefault(int(rows[ngram.positions[0], i, head]), []).append(ngram)
        shared += [
            SharedRow(order, head, row, found) for row, found in readers.items() if len(found) > 1
        ]
    return tuple(shared)
