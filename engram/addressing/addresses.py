"""`Addresses`: the constants that turn token ids into table rows, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.multipliers import multipliers
from engram.addressing.primes import HeadPrimes, head_primes, stored_rows
from engram.addressing.stored_form import ADDRESSES_SHAPE
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError, MismatchError
from engram.layouts import Layout, get_layout
from engram.storage.json_files import check_shape

TokenMap = NDArray[np.int32]


@dataclass(frozen=True)
class LayerAddresses:
    """The constants of one layer.

    Attributes:
        layer_id: The layer (0-based) in the backbone.
        multipliers: N odd multipliers, one per look-back position.
        primes: Rows of each head's table, ``[order][head]``.
        stored_rows: Rows of the layer's table as stored: the sum of primes, padded to the layout's
            multiple.
    """

    layer_id: int
    multipliers: tuple[int, ...]
    primes: tuple[tuple[int, ...], ...]
    stored_rows: int

    @property
    def heads(self) -> tuple[int, ...]:
        """The primes of all columns, one order after the other."""
        return tuple(prime for row in self.primes for prime in row)

    @property
    def offsets(self) -> tuple[int, ...]:
        """The first row of each column's part of the table."""
        return (0, *accumulate(self.heads[:-1]))

    @property
    def constants(self) -> dict[str, tuple[int, ...]]:
        """The constants that published files may contain, by the names in the toolkit."""
        return {"offsets": self.offsets, "sizes": self.heads, "factors": self.multipliers}

    @property
    def hash_rows(self) -> int:
        """The number of rows that ids can reach: the sum of the primes."""
        return sum(self.heads)


def layer_addresses(
    config: EngramConfig, vocab_size: int, layer_ids: Sequence[int] | None = None
) -> tuple[LayerAddresses, ...]:
    """Compute the constants of layers.

    Args:
        config: The memory.
        vocab_size: Size of the vocabulary that is hashed.
        layer_ids: Layers in hash order; those of the config when None.
    """
    factors = multipliers(config, vocab_size, layer_ids)
    return tuple(
        LayerAddresses(
            layer_id,
            factors[layer_id],
            tuple(map(tuple, primes)),
            stored_rows(primes, config.row_multiple),
        )
        for layer_id, primes in head_primes(config, layer_ids).items()
    )


@dataclass(frozen=True, eq=False, repr=False)
class Addresses:
    """The constants of a memory, as plain numbers without tensors or a tokenizer.

    Attributes:
        layout: The family's rules.
        layers: Constants per layer, in hash order (the L axis of ids).
        map_sha256: Digest of the token map as little-endian int32; None if raw ids are hashed.
        raw_vocab_size: Number V of token ids that may be hashed: 0..V-1.
        vocab_size: Size of the vocabulary that is hashed: the compressed one, or V.
        fill: The id of that vocabulary that is read where look-back is blocked.
        token_map: Compressed id per token id, int32 ``[V]``; None if raw ids are hashed, or if
            stored constants were read without their map (see `with_map`).
        end_id: The tokenizer's id of the token that ends documents; None if look-back ignores ends.
    """

    layout: Layout
    layers: tuple[LayerAddresses, ...]
    map_sha256: str | None
    raw_vocab_size: int
    vocab_size: int
    fill: int
    token_map: TokenMap | None = None
    end_id: int | None = None

    @classmethod
    def from_config(
        cls,
        config: EngramConfig,
        token_map: TokenMap | None,
        pad_id: int | None = None,
        layer_ids: Sequence[int] | None = None,
    ) -> Addresses:
        """Compute the constants.

        Args:
            config: The memory.
            token_map: Compressed id per token id, int32 ``[V]``; ignored by layouts that hash raw
                ids.
            pad_id: Token id of the pad, needed by layouts that fill with it.
            layer_ids: Layers in hash order; those of the config when None.

        Raises:
            LayoutError: There are no layers, the map or pad is missing, or the pad is outside the
                vocabulary.
        """
        layout = config.rules
        ids = config.layer_ids if layer_ids is None else layer_ids
        if not ids:
            raise LayoutError(
                "No layer reads the memory.", "Give layer_ids, in the config or as an argument."
            )
        compresses = layout.hashes == "compressed"
        if compresses and token_map is None:
            raise LayoutError(
                f"Layout {layout.name} hashes compressed ids, so it needs the token map."
            )
        raw_vocab_size = vocab_size = config.engram_vocab_size
        token_map = token_map if compresses else None
        if token_map is not None:
            raw_vocab_size, vocab_size = len(token_map), int(token_map.max()) + 1
        fill = pad_id if layout.fill == "pad" else config.eos_id
        if fill is None or not 0 <= fill < raw_vocab_size:
            raise LayoutError(
                f"The {layout.fill} token must be an id in 0..{raw_vocab_size - 1}, got {fill!r}.",
                f"Set {layout.fill}_id in the config.",
                value=fill,
            )
        if token_map is not None:
            fill = int(token_map[fill])
        return cls(
            layout,
            layer_addresses(config, vocab_size, ids),
            None if token_map is None else map_digest(token_map),
            raw_vocab_size,
            vocab_size,
            fill,
            token_map,
            config.eos_id if config.ends_after_eos else None,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "") -> Addresses:
        """Rebuild stored constants, without the token map.

        Args:
            values: The result of `to_dict`.
            where: The file that they are from, for messages.

        Raises:
            CorruptFileError: They do not have the form that `to_dict` writes.
            LayoutError: Their layout is unknown.
            MismatchError: They do not match their fingerprint.
        """
        hint = "Copy the files again from where the memory was made, or make it again."
        check_shape(values, ADDRESSES_SHAPE, "The record of the memory's addresses", hint=hint)
        layout = get_layout(values["layout"])
        addresses = cls(
            layout,
            tuple(
                LayerAddresses(
                    layer["layer_id"],
                    tuple(map(int, layer["multipliers"])),
                    tuple(map(tuple, layer["primes"])),
                    layer["stored_rows"],
                )
                for layer in values["layers"]
            ),
            values["map_sha256"],
            values["raw_vocab_size"],
            values["vocab_size"],
            values["fill"],
            end_id=values["fill"] if layout.ends_after_eos else values.get("end_id"),
        )
        addresses.check(values, where)
        return addresses

    def __repr__(self) -> str:
        return (
            f"<Addresses: layout {self.layout.name}, layers {self.layer_ids}, "
            f"{self.n_columns} rows a token, {self.fingerprint[:16]}>"
        )

    def with_map(self, token_map: TokenMap) -> Addresses:
        """Return these constants with their token map added.

        Raises:
            MismatchError: The map belongs to another memory.
        """
        if map_digest(token_map) != self.map_sha256:
            raise MismatchError(
                f"The token map ({len(token_map)} ids, {int(token_map.max(initial=-1)) + 1} "
                f"compressed) does not belong to this memory ({self.raw_vocab_size} ids, "
                f"{self.vocab_size} compressed).",
                "Use the tokenizer with which the memory was made.",
                parts=["map_sha256"],
                map_sha256=map_digest(token_map),
                expected=self.map_sha256,
            )
        return replace(self, token_map=token_map)

    def to_dict(self) -> dict[str, Any]:
        """Return the constants for JSON: multipliers as strings, since they exceed 2^53."""
        return {
            "fingerprint": self.fingerprint,
            "layout": self.layout.name,
            "map_sha256": self.map_sha256,
            "raw_vocab_size": self.raw_vocab_size,
            "vocab_size": self.vocab_size,
            "fill": self.fill,
            **self._own_end,
            "orders": list(self.orders),
            "heads": self.n_heads,
            "layers": [
                {
                    "layer_id": layer.layer_id,
                    "multipliers": [str(factor) for factor in layer.multipliers],
                    "primes": [list(row) for row in layer.primes],
                    "stored_rows": layer.stored_rows,
                }
                for layer in self.layers
            ],
        }

    def check(self, stored: Mapping[str, Any], where: str = "") -> None:
        """Compare with stored constants.

        Args:
            stored: The result of `to_dict` when they were written.
            where: The file that they are from, for messages.

        Raises:
            MismatchError: They differ; the message names the parts that differ.
        """
        mine = self.to_dict()
        keys = {**mine, **({"end_id": None} if "end_id" in stored else {})}
        parts = [key for key in keys if key != "fingerprint" and stored.get(key) != mine.get(key)]
        if parts or stored.get("fingerprint") != mine["fingerprint"]:
            memory = f"{where}: the memory" if where else "The memory"
            raise MismatchError(
                f"{memory}'s addresses differ in: {', '.join(parts) or 'fingerprint'}. Wrong rows "
                "would be read.",
                "Use the tokenizer and config with which the memory was made.",
                parts=parts,
                fingerprint=stored.get("fingerprint"),
                expected=mine["fingerprint"],
            )

    @property
    def n_orders(self) -> int:
        """Number of n-gram orders."""
        return len(self.layers[0].primes)

    @property
    def orders(self) -> tuple[int, ...]:
        """The n-gram orders 2..N."""
        return tuple(range(2, self.n_orders + 2))

    @property
    def n_heads(self) -> int:
        """Hash heads per order."""
        return len(self.layers[0].primes[0])

    @property
    def max_ngram_size(self) -> int:
        """Highest n-gram order N; the next ids depend on N - 1 past tokens."""
        return self.n_orders + 1

    @property
    def n_columns(self) -> int:
        """Rows C that a token reads in one layer."""
        return self.n_orders * self.n_heads

    @property
    def layer_ids(self) -> list[int]:
        """Layers in hash order."""
        return [layer.layer_id for layer in self.layers]

    @property
    def vocab_distributions(self) -> dict[int, HeadPrimes]:
        """Primes per layer, in the form that modules take."""
        return {
            layer.layer_id: HeadPrimes(layer.primes, layer.layer_id, i)
            for i, layer in enumerate(self.layers)
        }

    @property
    def _own_end(self) -> dict[str, int]:
        """The end-of-document token if the config adds one to the layout's rules."""
        if self.end_id is None or self.layout.ends_after_eos:
            return {}
        return {"end_id": self.end_id}

    @property
    def fingerprint(self) -> str:
        """sha256 over everything that determines the ids: equal fingerprints mean equal ids."""
        parts = {
            "layout": self.layout.name,
            "map_sha256": self.map_sha256,
            "vocab_size": self.vocab_size,
            "pad": self.fill,
            **self._own_end,
            "multipliers": [[str(factor) for factor in layer.multipliers] for layer in self.layers],
            "primes": [[list(row) for row in layer.primes] for layer in self.layers],
            "layers": self.layer_ids,
            "heads": self.n_heads,
            "orders": list(self.orders),
        }
        return hashlib.sha256(
            json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()


def map_digest(token_map: TokenMap) -> str:
    """Return the sha256 of a token map as little-endian int32."""
    return hashlib.sha256(token_map.astype("<i4").tobytes()).hexdigest()
