"""`GgufDialect`: one way in which engines store a memory in GGUF."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

# Element types of keys, as GGUF calls them.
Kind = Literal["uint32", "int32", "uint64", "int64", "string", "bool"]


class Fact(NamedTuple):
    """Place of something that a file states about its memory.

    Attributes:
        name: Its key without the prefix; of a tensor its whole name.
        kinds: Element types that writers of the dialect give it, the usual one first.
        is_tensor: It is a tensor instead of a key.
        is_list: It is an array instead of a single value.
        dims: Sizes of a tensor by their names, those that lie together first: layers, orders (those
            above 1), heads of an order, columns (heads of all orders), looks (back, and at the
            token itself), vocab.
    """

    name: str
    kinds: tuple[Kind, ...]
    is_tensor: bool = False
    is_list: bool = False
    dims: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GgufDialect:
    """One way to store a memory in GGUF.

    Attributes:
        name: Short name, as messages and ``--json`` give it.
        source: Who writes and reads it.
        layout: Layout of the memory.
        architectures: Values of ``general.architecture``, which is also the prefix of keys.
        facts: Place of each fact by our name: `layer_ids`, `rows`, `orders`, `heads`, `row_width`,
            `compressed_vocab_size`, `size_base`, `pad_id`, `token_map`, `primes`, `offsets`,
            `multipliers`, `encoding` and others.
        pad_is_raw: `pad_id` is a token id, which the token map has yet to map.
        table: Name of the table of a layer; None where the file holds none.
        scales: Name of a second tensor with the scales of its rows, or None.
        weights: Names of the other tensors of a layer by our names.
        weight_types: ggml types that such tensors are written as, by our name; the one that keeps
            their values where there is none.
        shifts: What is added to the values of such a tensor when it is stored, by our name.
        marks: Keys without prefix that tell the dialect; none of them is in a file of a dialect
            that comes later.
        tensor_marks: Names of tensors that tell it, likewise.
        optional: Facts that a file may lack.
        engines: Short names of engines whose loaders read it.
        row_encodings: Encodings of rows that they take; any of values where there are none.
    """

    name: str
    source: str
    layout: str
    architectures: tuple[str, ...]
    facts: Mapping[str, Fact]
    pad_is_raw: bool = False
    table: str | None
    scales: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    weight_types: Mapping[str, str] = field(default_factory=dict)
    shifts: Mapping[str, float] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    tensor_marks: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    row_encodings: tuple[str, ...] = ()

    def tensor_layers(self, template: str, names: Iterable[str]) -> dict[int, str]:
        """Find the layers of which there is a tensor.

        Args:
            template: Its name, with ``{layer}``.
            names: The names of the file's tensors.

        Returns:
            Their names by layer, the lowest first.
        """
        pattern = re.compile(re.escape(template).replace(r"\{layer\}", r"(\d{1,9})"))
        found = ((pattern.fullmatch(name), name) for name in names)
        return dict(sorted((int(match[1]), name) for match, name in found if match is not None))

    def is_marked(self, keys: Collection[str], tensors: Collection[str]) -> bool:
        """Whether a file has what this dialect alone has.

        Args:
            keys: Its keys without their prefix.
            tensors: Names of its tensors.
        """
        return any(mark in keys for mark in self.marks) or any(
            self.tensor_layers(mark, tensors) if "{layer}" in mark else mark in tensors
            for mark in self.tensor_marks
        )
