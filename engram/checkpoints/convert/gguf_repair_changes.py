"""`changes`: differences of planned GGUF files from those that they are made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from engram.checkpoints.convert.gguf_repair_parts import NewPart
from engram.checkpoints.gguf.gguf_memory import GgufMemory
from engram.storage.ggml_types import TYPES
from engram.storage.gguf_values import GgufValue
from engram.storage.gguf_writer import NewValue


class Change(NamedTuple):
    """One difference.

    Attributes:
        action: ``written``, ``renamed`` or ``removed``.
        name: The key or the tensor, by the name that it has now; of a removed one that it had.
        detail: Type of what is written; the name that something had before.
        file: The file.
    """

    action: Literal["written", "renamed", "removed"]
    name: str
    detail: str
    file: str


def changes(memory: GgufMemory, parts: Sequence[NewPart]) -> tuple[Change, ...]:
    """List what is different in planned files, keys first.

    Args:
        memory: The source.
        parts: The planned files.
    """
    return (*_of_keys(memory, parts), *_of_tensors(memory, parts))


def _of_keys(memory: GgufMemory, parts: Sequence[NewPart]) -> Iterator[Change]:
    taken = set()
    for part in parts:
        for key, value in part.values.items():
            if isinstance(value, GgufValue):
                taken.add(value.key)
                if value.key != key:
                    yield Change("renamed", key, value.key, part.name)
            else:
                yield Change("written", key, _described(value), part.name)
    written = {key for part in parts for key in part.values}
    for key in memory.files.values:
        if key not in taken | written:
            yield Change("removed", key, "", memory.files.parts[0].path.name)


def _of_tensors(memory: GgufMemory, parts: Sequence[NewPart]) -> Iterator[Change]:
    taken, written = set(), set()
    for part in parts:
        for place in part.places:
            name = place.tensor.name
            written.add(name)
            if place.origin is None:
                kind = f"{TYPES[place.tensor.type_id].name} {list(place.tensor.dims)}"
                yield Change("written", name, kind, part.name)
                continue
            taken.add(place.origin.name)
            if place.origin.name != name:
                yield Change("renamed", name, place.origin.name, part.name)
    for name, tensor in memory.files.tensors.items():
        if name not in taken | written:
            yield Change("removed", name, "", tensor.path.name)


def _described(value: NewValue) -> str:
    is_list = isinstance(value.value, list | tuple)
    return f"{value.kind}[{len(value.value)}]" if is_list else f"{value.kind} {value.value}"
