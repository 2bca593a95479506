"""`GgufMemory`: a memory in GGUF files, found by its dialect; nothing of its tables is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from engram.errors import InputError
from engram.layouts import LAYOUTS, Layout
from engram.layouts.gguf_dialect import Fact, GgufDialect
from engram.layouts.gguf_dialects import find_dialect
from engram.layouts.settings import MOST_HEADS, MOST_ORDERS
from engram.storage.gguf import is_gguf
from engram.storage.gguf_headers import GgufTensor
from engram.storage.gguf_on_hub import HubGguf
from engram.storage.gguf_parts import GgufFiles, read_gguf_parts
from engram.storage.gguf_values import INTEGERS, GgufValue
from engram.storage.row_encodings.fp8_rows import TWO_TENSORS

ARCHITECTURE = "general.architecture"
TOKENS = "tokenizer.ggml.tokens"
# Plain bytes: the width of a row in values does not follow from that of the tensor.
_BYTES = "I8"
_CONV = "conv1d.weight"


@dataclass(frozen=True)
class GgufTable:
    """The table of a layer.

    Attributes:
        layer_id: The layer; None where the file does not say of which one it is.
        values: The tensor with the rows.
        scales: The tensor with their scales, where they lie apart.
        encoding: Encoding of a row: the name that the file gives it, else its ggml type.
        width: Values of a row; None where the encoding is unknown.
    """

    layer_id: int | None
    values: GgufTensor
    scales: GgufTensor | None
    encoding: str
    width: int | None

    @property
    def tensors(self) -> tuple[GgufTensor, ...]:
        """The tensors of the table."""
        return (self.values,) if self.scales is None else (self.values, self.scales)

    @property
    def decoded(self) -> tuple[GgufTensor, ...]:
        """Those that a row is decoded from: not scales that are kept beside requantised rows."""
        return self.tensors if self.encoding == TWO_TENSORS else (self.values,)

    @property
    def is_bytes(self) -> bool:
        """Whether the tensor has plain bytes, of which the encoding is stated elsewhere."""
        return self.values.type_name == _BYTES

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.values.dims[1] if len(self.values.dims) > 1 else 0


@dataclass(frozen=True, eq=False)
class GgufMemory:
    """A memory in a GGUF file, or in the parts of one.

    Attributes:
        name: The file, or the folder, as it was named.
        files: Their headers.
        dialect: The dialect that it is stored in.
    """

    name: str
    files: GgufFiles
    dialect: GgufDialect

    @property
    def layout(self) -> Layout:
        """Layout of the memory."""
        return LAYOUTS[self.dialect.layout]

    @property
    def architecture(self) -> str | None:
        """Value of ``general.architecture``; None where it is missing or not a text."""
        return _text(self.files.values.get(ARCHITECTURE))

    @property
    def vocab_size(self) -> int | None:
        """Tokens that the file has, or states; None where it does neither."""
        tokens = self.files.values.get(TOKENS)
        if tokens is not None:
            return tokens.count
        stated = self.files.values.get(f"{self.architecture}.vocab_size")
        is_number = stated is not None and not stated.is_array and stated.kind in INTEGERS
        return int(stated.scalar()) if stated is not None and is_number else None

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        """Prefixes of the keys of the memory, up to the dot, each once."""
        names = {fact.name for fact in self.dialect.facts.values() if not fact.is_tensor}
        found = (key.partition(".") for key in self.files.values)
        return tuple(dict.fromkeys(prefix for prefix, _, name in found if name in names))

    @cached_property
    def own_keys(self) -> set[str]:
        """Keys of the memory, with their prefix."""
        return {value.key for fact in self.dialect.facts if (value := self.value(fact)) is not None}

    @cached_property
    def own_tensors(self) -> set[str]:
        """Names of the memory's tensors: tables, weights, and constants that are tensors."""
        names = {tensor.name for table in self.tables for tensor in table.tensors}
        names |= {tensor.name for parts in self.weights.values() for tensor in parts.values()}
        constants = (self.tensor(fact) for fact in self.dialect.facts)
        return names | {tensor.name for tensor in constants if tensor is not None}

    def value(self, fact: str) -> GgufValue | None:
        """Return the key of a fact; None where the dialect has none, or the file."""
        place = self.dialect.facts.get(fact)
        if place is None or place.is_tensor:
            return None
        keys = (f"{prefix}.{place.name}" for prefix in self.prefixes)
        return next((self.files.values[key] for key in keys if key in self.files.values), None)

    def tensor(self, fact: str) -> GgufTensor | None:
        """Return the tensor of a fact; None where the dialect has none, or the file."""
        place = self.dialect.facts.get(fact)
        return self.files.tensors.get(place.name) if place is not None and place.is_tensor else None

    def integer(self, fact: str) -> int | None:
        """Return a fact that is one whole number; None where the file states none."""
        value = self.value(fact)
        if value is None or value.is_array or value.kind not in INTEGERS:
            return None
        return int(value.scalar())

    def integers(self, fact: str) -> list[int] | None:
        """Return a fact that is a list of whole numbers; None where the file states none."""
        value = self.value(fact)
        if value is None or not value.is_array or value.kind not in INTEGERS:
            return None
        return [int(number) for number in value.numbers().tolist()]

    def text(self, fact: str) -> str | None:
        """Return a fact that is a text; None where the file states none."""
        return _text(self.value(fact))

    @property
    def stated_types(self) -> dict[str, str]:
        """Element type of every fact that the file states, as it was found, by our name."""
        found = {}
        for fact in self.dialect.facts:
            value, tensor = self.value(fact), self.tensor(fact)
            if value is not None:
                found[fact] = value.described()
            elif tensor is not None:
                found[fact] = f"{tensor.type_name}{list(tensor.dims)}"
        return found

    @property
    def missing(self) -> dict[str, Fact]:
        """Facts that the dialect states and the file lacks, by our name."""
        stated, dialect = self.stated_types, self.dialect
        return {
            name: place
            for name, place in dialect.facts.items()
            if name not in stated and name not in dialect.optional
        }

    @property
    def is_table_alone(self) -> bool:
        """Whether the files hold a table, and nothing else of a memory."""
        return bool(self.tables) and not (self.stated_types or self.weights)

    @cached_property
    def layer_ids(self) -> tuple[int, ...]:
        """Layers of the memory: as stated, else those with tensors of it."""
        stated = self.integers("layer_ids")
        if stated:
            return tuple(stated)
        return self.tensor_layers

    @cached_property
    def tensor_layers(self) -> tuple[int, ...]:
        """Layers of which there are tensors of the memory, the lowest first."""
        templates = (self.dialect.table, *self.dialect.weights.values())
        found = (
            layer_id
            for template in templates
            if template is not None and "{layer}" in template
            for layer_id in self.dialect.tensor_layers(template, self.files.tensors)
        )
        return tuple(sorted(set(found)))

    @cached_property
    def tables(self) -> tuple[GgufTable, ...]:
        """The tables that the files hold, the lowest layer first."""
        return tuple(self._tables())

    def _tables(self) -> Iterator[GgufTable]:
        template, tensors = self.dialect.table, self.files.tensors
        if template is None:
            return
        if "{layer}" not in template:  # one table, of the one layer that is stated
            layer_id = self.layer_ids[0] if len(self.layer_ids) == 1 else None
            if template in tensors:
                yield self._table(layer_id, tensors[template], None)
            return
        scales = self.dialect.scales or ""
        for layer_id, name in self.dialect.tensor_layers(template, tensors).items():
            scale = tensors.get(scales.replace("{layer}", str(layer_id)))
            yield self._table(layer_id, tensors[name], scale)

    def _table(
        self, layer_id: int | None, values: GgufTensor, scales: GgufTensor | None
    ) -> GgufTable:
        width = values.dims[0] if values.dims else 0
        if values.type_name != _BYTES:
            return GgufTable(layer_id, values, scales, values.type_name, width)
        if scales is not None:
            return GgufTable(layer_id, values, scales, TWO_TENSORS, width)
        from engram.storage.row_encodings.known_encodings import ROW_ENCODINGS

        encoding = self.text("encoding") or _BYTES
        known = ROW_ENCODINGS.get(encoding)
        # The width of the tensor is in bytes; rows of these encodings are one block each.
        values_of_row = known.block_values if known is not None and known.is_row else None
        return GgufTable(layer_id, values, None, encoding, values_of_row)

    @cached_property
    def weights(self) -> Mapping[int, Mapping[str, GgufTensor]]:
        """The other tensors of each layer, by our names."""
        found: dict[int, dict[str, GgufTensor]] = {}
        for part, template in self.dialect.weights.items():
            layers = self.dialect.tensor_layers(template, self.files.tensors)
            for layer_id, name in layers.items():
                found.setdefault(layer_id, {})[part] = self.files.tensors[name]
        return dict(sorted(found.items()))

    @cached_property
    def taps(self) -> int | None:
        """Taps of the convolution, as its tensors have them; None where they do not tell."""
        dims = [parts[_CONV].dims for parts in self.weights.values() if _CONV in parts]
        found = {it[0] if len(it) > 1 else 1 for it in dims}  # axes of size 1 are not stored
        return found.pop() if len(found) == 1 else None

    @cached_property
    def orders(self) -> int | None:
        """The highest n-gram order N; None where nothing tells it."""
        stated = self.integer("orders")
        multipliers = self.integers("multipliers")
        if stated is None and multipliers and self.layer_ids:
            return len(multipliers) // len(self.layer_ids)
        return stated

    @cached_property
    def heads(self) -> int | None:
        """Heads of an order; None where nothing tells them."""
        stated, primes, orders = self.integer("heads"), self.integers("primes"), self.orders
        if stated is None and primes and orders and orders > 1 and self.layer_ids:
            return len(primes) // len(self.layer_ids) // (orders - 1)
        return stated

    @property
    def columns(self) -> int | None:
        """Rows that a token reads of a table: heads of all orders; None where nothing tells it."""
        orders, heads = self.orders or 0, self.heads or 0
        is_likely = 2 <= orders <= MOST_ORDERS and 1 <= heads <= MOST_HEADS
        return (orders - 1) * heads if is_likely else None

    def hash_rows(self, layer_id: int) -> int | None:
        """Rows that ids can reach in a layer's table; None where the primes are not stated."""
        primes, count = self.integers("primes"), len(self.layer_ids)
        if not primes or layer_id not in self.layer_ids or len(primes) % count:
            return None
        place, each = self.layer_ids.index(layer_id), len(primes) // count
        return sum(primes[place * each : (place + 1) * each])


def holds_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, if only by name, or a folder of such without safetensors."""
    if path.is_dir():
        return any(path.glob("*.gguf")) and not any(path.glob("*.safetensors"))
    return is_gguf(path) or (path.suffix == ".gguf" and path.is_file())


def open_gguf(place: Path | HubGguf) -> GgufMemory:
    """Open a memory in GGUF files, from their headers.

    Args:
        place: The file, any part of a split one, or a folder with one model; or one on the hub.

    Raises:
        MissingFileError: A file is not there, or cannot be read.
        CorruptFileError: A header is damaged.
        InputError: It has no memory in a dialect that is known.
    """
    files = read_gguf_parts(place) if isinstance(place, Path) else place.read()
    memory = memory_of(files, str(place))
    if memory is None:
        architecture = _text(files.values.get(ARCHITECTURE))
        of = "" if architecture is None else f" of architecture {architecture}"
        raise InputError(
            f"{files.parts[0].path} is a GGUF file{of} without a memory: none of its "
            f"{len(files.values):,} keys and {len(files.tensors):,} tensors is one that an engine "
            "gives a memory.",
            "Give a file with a memory, such as DeepSeek-V4.1 (deepseek41) or Qwen3.8-Flash-Next "
            "(qwen4exp).",
            path=str(files.parts[0].path),
            format="gguf",
        )
    return memory


def memory_of(files: GgufFiles, name: str) -> GgufMemory | None:
    """Find the memory of a model in GGUF; None where it has none of a known dialect.

    Args:
        files: Its files.
        name: What to call it in messages.
    """
    architecture = _text(files.values.get(ARCHITECTURE))
    dialect = find_dialect(files.values, files.tensors, architecture)
    return None if dialect is None else GgufMemory(name, files, dialect)


def _text(value: GgufValue | None) -> str | None:
    """Return a key's text; None where there is no key, or it holds something else."""
    is_text = value is not None and value.kind == "string" and not value.is_array
    return str(value.scalar()) if value is not None and is_text else None
