"""`RepairPlan`: the files of a memory in GGUF with right metadata, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engram.checkpoints.convert.gguf_repair_facts import RightFacts
from engram.checkpoints.convert.gguf_repair_parts import NewPart, NewPlace, Values, stored_bytes
from engram.checkpoints.gguf.gguf_addresses import read_numbers
from engram.checkpoints.gguf.gguf_memory import ARCHITECTURE, GgufMemory
from engram.errors import EngramError
from engram.layouts.gguf_dialect import Fact, GgufDialect
from engram.layouts.gguf_dialects import DIALECTS
from engram.storage.ggml_types import type_named
from engram.storage.gguf_headers import GgufFile, GgufTensor
from engram.storage.gguf_parts import (
    SPLIT_COUNT,
    SPLIT_KINDS,
    SPLIT_NO,
    SPLIT_TENSORS,
    part_names,
)
from engram.storage.gguf_values import INTEGERS, GgufValue
from engram.storage.gguf_writer import ALIGNMENT, NewTensor, NewValue


@dataclass(frozen=True, eq=False)
class RepairPlan:
    """Metadata and names of tensors of a memory, as they have to be.

    Attributes:
        memory: The file, in the dialect that it is in.
        dialect: The dialect that it is to be in.
        facts: Its constants.
        moves_architecture: Whether the architecture is to be one of the dialect's.
    """

    memory: GgufMemory
    dialect: GgufDialect
    facts: RightFacts
    moves_architecture: bool

    @property
    def architecture(self) -> str:
        """The architecture, which is also the prefix of keys."""
        found = self.memory.architecture
        is_other = self.moves_architecture and found not in self.dialect.architectures
        return self.dialect.architectures[0] if found is None or is_other else found

    def parts(self, name: str, first_shard: bool) -> tuple[NewPart, ...]:
        """Return the files.

        Args:
            name: Name of the file where it is the only one.
            first_shard: Give metadata a first part of their own.
        """
        old = self.memory.files.parts
        places = [[*self._places(part)] for part in old]
        values: list[Values] = [self._values(), *(part.values for part in old[1:])]
        origins: list[GgufFile | None] = [*old]
        if first_shard and has_weights_first(self.memory):
            # Constants that are tensors go with the metadata, so that a repair finds them there.
            constants = {place.name for place in self.dialect.facts.values() if place.is_tensor}
            moved = [place for place in places[0] if place.tensor.name in constants]
            kept = [place for place in places[0] if place.tensor.name not in constants]
            places = [[*moved, *self._new_places()], kept, *places[1:]]
            aligned = {key: it for key, it in values[0].items() if key == ALIGNMENT}
            values, origins = [values[0], aligned, *values[1:]], [None, *origins]
        else:
            places[0] += self._new_places()
        names = [part.path.name for part in old] if len(old) == len(places) else []
        if len(places) == 1:
            names = [name]
        elif not names:
            stem = part_names(old[0].path.name)[0].removesuffix(".gguf")
            stem = stem.removesuffix(f"-00001-of-{len(old):05}")
            names = [*part_names(f"{stem}-00001-of-{len(places):05}.gguf")]
        if len(places) > 1:
            total = sum(map(len, places))
            values = [
                _split(own, {SPLIT_NO: at, SPLIT_COUNT: len(places), SPLIT_TENSORS: total})
                for at, own in enumerate(values)
            ]
        alignment = old[0].alignment
        return tuple(
            NewPart(name, own, held, alignment if origin is None else origin.alignment, origin)
            for name, own, held, origin in zip(names, values, places, origins, strict=True)
        )

    def _values(self) -> Values:
        """Metadata of the first part: the memory's keys anew, all others as they are."""
        memory, architecture = self.memory, self.architecture
        made = dict(self._keys())
        own = {
            f"{prefix}.{place.name}": fact
            for prefix in memory.prefixes
            for fact, place in memory.dialect.facts.items()
            if not place.is_tensor
        }
        stored, found = memory.files.values, {}
        for key, value in stored.items():
            new = self._key(own[key]) if key in own else self._renamed(key)
            if new in made:
                found[new] = made[new]
            elif key == ARCHITECTURE and memory.architecture != architecture:
                found[key] = NewValue("string", architecture)
            elif key not in own:
                found[new if new == key or new not in stored else key] = value
        if memory.architecture is None:
            found[ARCHITECTURE] = NewValue("string", architecture)
        return {**found, **made}

    def _key(self, fact: str) -> str:
        """Key of a fact; empty where the dialect has none."""
        place = self.dialect.facts.get(fact)
        return "" if place is None or place.is_tensor else f"{self.architecture}.{place.name}"

    def _renamed(self, key: str) -> str:
        """Key of something else: with another architecture, it has another prefix."""
        prefix, dot, name = key.partition(".")
        return f"{self.architecture}.{name}" if dot and prefix == self.memory.architecture else key

    def _keys(self) -> Iterator[tuple[str, NewValue | GgufValue]]:
        """Keys of the memory: values that are right as they are stored, others anew."""
        right, is_new = self.facts.values, self.dialect is not self.memory.dialect
        for fact, place in self.dialect.facts.items():
            value, key = self.memory.value(fact), self._key(fact)
            if place.is_tensor:
                continue
            if value is None:
                is_needed = fact not in self.dialect.optional or fact == "encoding" or is_new
                if is_needed and fact in right:
                    yield key, NewValue(place.kinds[0], right[fact])
            elif _has_form(value, place) and self._is_right(fact, value):
                yield key, value
            elif fact in right:
                yield key, NewValue(place.kinds[0], right[fact])
            else:
                yield key, _in_form(value, place)

    def _is_right(self, fact: str, value: GgufValue) -> bool:
        """Whether a value of the right form may stay."""
        if value.is_array and value.kind != "string":
            return self.facts.takes(fact, read_numbers(self.memory, fact))
        return value.is_array or self.facts.takes(fact, value.scalar())

    def _places(self, part: GgufFile) -> Iterator[NewPlace]:
        """Tensors of a part: renamed, made anew, or left out where another dialect has them."""
        memory, sizes = self.memory, stored_bytes(part)
        constants = {
            place.name: fact for fact, place in memory.dialect.facts.items() if place.is_tensor
        }
        scales = {it.scales.name for it in memory.tables if it.scales is not None}
        for name, tensor in part.tensors.items():
            fact = constants.get(name)
            if fact is not None:
                place = self.dialect.facts.get(fact)
                if place is not None and place.is_tensor:
                    made = self._constant(fact, place, tensor)
                    yield made or NewPlace.of(tensor, place.name, sizes[name])
            elif name not in scales or self.dialect.scales is not None:
                yield NewPlace.of(tensor, self._names.get(name, name), sizes[name])

    def _new_places(self) -> list[NewPlace]:
        """Constants that are tensors, and were not there."""
        made = (
            self._constant(fact, place, None)
            for fact, place in self.dialect.facts.items()
            if place.is_tensor and self.memory.tensor(fact) is None
        )
        return [place for place in made if place is not None]

    def _constant(self, fact: str, place: Fact, stored: GgufTensor | None) -> NewPlace | None:
        """Make a constant that is a tensor; None where it may stay, or is not known."""
        kind = f"I{place.kinds[0].removeprefix('int')}"
        if fact not in self.facts.values:
            return None
        right = self.facts.values[fact]
        if stored is not None and stored.type_name == kind:
            try:
                if self.facts.takes(fact, read_numbers(self.memory, fact)):
                    return None
            except EngramError:  # it cannot be read
                pass
        content = np.array(right, place.kinds[0]).astype(f"<i{int(kind[1:]) // 8}").tobytes()
        tensor = NewTensor(place.name, self._dims(place, len(right)), type_named(kind).id, ())
        return NewPlace(tensor, None, content)

    def _dims(self, place: Fact, count: int) -> tuple[int, ...]:
        """Dimensions of a constant that is a tensor."""
        right = self.facts.values
        orders, heads = right["orders"] - 1, right["heads"]
        sizes = {
            "vocab": count,
            "layers": len(right["layer_ids"]),
            "orders": orders,
            "heads": heads,
            "columns": orders * heads,
            "looks": right["orders"],
        }
        return tuple(sizes[name] for name in place.dims)

    @cached_property
    def _names(self) -> Mapping[str, str]:
        """New names of the memory's tensors by those that they have."""
        memory, dialect, found = self.memory, self.dialect, dict[str, str]()
        tensors = memory.files.tensors
        templates = (dialect.table, dialect.scales)
        for table in memory.tables:
            for tensor, template in zip(table.tensors, templates, strict=False):
                if template is not None:
                    found[tensor.name] = template.replace("{layer}", str(table.layer_id))
        for layer_id in self.facts.layer_ids:
            for part, template in dialect.weights.items():
                name = template.replace("{layer}", str(layer_id))
                others = (
                    it.weights[part].replace("{layer}", str(layer_id))
                    for it in DIALECTS
                    if it.layout == dialect.layout and part in it.weights
                )
                there = next((it for it in others if it in tensors), None)
                if name not in tensors and there is not None:
                    found[there] = name
        return found


def has_weights_first(memory: GgufMemory) -> bool:
    """Whether the first part of a model has tensors, other than constants that are some."""
    constants = {place.name for place in memory.dialect.facts.values() if place.is_tensor}
    return bool(memory.files.parts[0].tensors.keys() - constants)


def _has_form(value: GgufValue, place: Fact) -> bool:
    return value.kind in place.kinds and value.is_array == place.is_list


def _in_form(value: GgufValue, place: Fact) -> NewValue | GgufValue:
    """Give a stated value the type that loaders take; as it is where it cannot have it."""
    kind = place.kinds[0]
    if value.is_array or place.is_list or not {value.kind, kind} <= {*INTEGERS}:
        return value
    return NewValue(kind, int(value.scalar()))


def _split(values: Values, right: Mapping[str, int]) -> Values:
    """Say in a part how the model is split; what is right stays."""
    new = dict(values)
    for key, number in right.items():
        stored = values.get(key)
        if not isinstance(stored, GgufValue) or not _states(stored, number):
            new[key] = NewValue(SPLIT_KINDS[key], number)
    return new


def _states(value: GgufValue, number: int) -> bool:
    return not value.is_array and value.kind in INTEGERS and value.scalar() == number
