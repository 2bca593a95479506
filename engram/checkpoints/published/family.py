"""`Family`: what a naming family of released checkpoints is, as data and a few functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from engram.checkpoints.published.stored import Stored
from engram.checks import Verdict
from engram.config.engram_config import EngramConfig
from engram.errors import ConfigError, Problem
from engram.storage.safetensors_headers import TensorInfo

Role = Literal["table", "dense", "constants"]
# Layer (None for a memory that no layer has to itself), and published name inside of it.
Key = tuple[int | None, str]


@dataclass(frozen=True)
class Slot:
    """Where a tensor belongs in a memory.

    Attributes:
        layer_id: Its layer; None when it belongs to no layer alone.
        key: Its published name inside the layer, such as ``embed.weight``; scales have the key of
            what they scale.
        part: Part of the memory that it is counted under, such as ``table`` or ``wkv``.
        role: What kind of part that is.
        is_scale: It holds the scales of the tensor of that key.
        shard: Which piece of the tensor it is, for tensors that are stored in pieces.
    """

    layer_id: int | None
    key: str
    part: str
    role: Role
    is_scale: bool = False
    shard: int = 0


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A tensor as the config calls for it.

    Attributes:
        shape: Its shape in values, all shards together; quantised ones may be packed.
        block: Rows and columns of values that share one scale, for tensors whose scales may lie no
            other way; None when the family knows several.
        shards: Pieces that it is stored in.
    """

    shape: tuple[int, ...]
    block: tuple[int, int] | None = None
    shards: int = 1


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a checkpoint should hold.

    Attributes:
        config: The memory in our terms; None for a kind of memory that we do not run.
        reads: Rows that a token reads of each table.
        hash_rows: Rows that ids can reach, by layer.
        expected: Every tensor by its key.
        notes: What should be said with the numbers.
    """

    config: EngramConfig | None
    reads: int
    hash_rows: Mapping[int | None, int]
    expected: Mapping[Key, Expected]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Released:
    """A released checkpoint, recognised.

    Attributes:
        family: Its family.
        stored: Its files.
        memory: What they should hold.
        slots: Where every tensor of the memory belongs, by its name in the files.
    """

    family: Family
    stored: Stored
    memory: Memory
    slots: Mapping[str, Slot]

    def names(self, key: Key, *, scale: bool = False) -> list[str]:
        """Names in the files of a tensor's pieces, in order."""
        return self._names.get((key, scale), [])

    @cached_property
    def _names(self) -> dict[tuple[Key, bool], list[str]]:
        found: dict[tuple[Key, bool], list[str]] = {}
        for name, slot in sorted(self.slots.items(), key=lambda item: item[1].shard):
            found.setdefault(((slot.layer_id, slot.key), slot.is_scale), []).append(name)
        return found

    def infos(self, key: Key, *, scale: bool = False) -> list[TensorInfo]:
        """What the headers say about a tensor's pieces, in order."""
        return [self.stored.tensors[name] for name in self.names(key, scale=scale)]

    def missing(self, key: Key) -> list[str]:
        """Names of an expected tensor's pieces that are not in the files."""
        shards, names = self.memory.expected[key].shards, self.names(key)
        there = {self.slots[name].shard for name in names}
        if there == {0} and shards > 1 and not SHARD.search(names[0]):
            return []  # joined into one
        return [
            self.family.name_of(key, shard, False, self.slots)
            for shard in range(shards)
            if shard not in there
        ]

    def missing_tables(self) -> list[str]:
        """Names of pieces of tables that are not in the files."""
        tables = {slot.key for slot in self.slots.values() if slot.role == "table"}
        keys = [key for key in self.memory.expected if key[1] in tables]
        return [name for key in keys for name in self.missing(key)]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Checkpoints that name and lay out their memory alike.

    Attributes:
        layout: Name of the layout.
        title: One line for people.
        source: Where its names and shapes are published.
        states: Whether a config (the text model's part of it) is one of the family's.
        mark: Matches a name that only the family has, for checkpoints whose config is silent.
        find: Where a tensor belongs by its name; None for tensors of the base model.
        name_of: The name that a tensor would have: its key, its shard, whether its scales are
            meant, and what the files hold of the memory, to take the spelling from.
        describe: What the files should hold.
        checks: What can be checked besides names and shapes, by name; they are given the
            checkpoint, and a tokenizer to use instead of its own.
        heads: By layer, the rows of each head's part of the table: as stored, or as the config
            calls for them where the files do not say. None where no config gives the primes.
    """

    layout: str
    title: str
    source: str
    states: Callable[[Mapping[str, Any]], bool]
    mark: re.Pattern[str]
    find: Callable[[str], Slot | None]
    name_of: Callable[[Key, int, bool, Mapping[str, Slot]], str]
    describe: Callable[[Stored], Memory]
    checks: Mapping[str, Callable[[Released, str | None], Verdict]]
    heads: Callable[[Released], Mapping[int, Sequence[int]]] | None = None


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text model's settings: those of a config, or of the part of it that has them."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


# Number of a piece in a name: as released, and as MLX's ports spell it.
SHARD = re.compile(r"\.shard(?:_|s\.)(\d+)(?=\.)")
_SCALE = re.compile(r"\.(?:scale|weight_scale|weight_scale_inv)$")


def without_scale(name: str) -> tuple[str, bool]:
    """Return the name of the weight that a tensor's name speaks of, and whether of its scales."""
    return (_SCALE.sub(".weight", name), True) if _SCALE.search(name) else (name, False)


# More than any model has: a config that says so would only keep the machine busy.
MOST_ORDERS, MOST_HEADS, MOST_LAYERS, MOST_SHARDS = 16, 256, 4096, 65536


class Settings:
    """Reads settings that may go by several names; collects what is wrong with them."""

    def __init__(self, stored: Stored) -> None:
        self.values = text_part(stored.config)
        self.problems: list[Problem] = []
        self._source = f"{stored.name}: config.json"

    def get(self, *names: str) -> Any:
        """The value of the first of these names that is stated."""
        return next(
            (self.values[name] for name in names if self.values.get(name) is not None), None
        )

    def whole(
        self, *names: str, default: int | None = None, low: int = 1, high: int = 2**48
    ) -> int:
        """A whole number."""
        value = self.get(*names)
        value = default if value is None else value
        if type(value) is int and low <= value <= high:
            return value
        what = "missing" if value is None else f"{value!r} is no whole number in {low}..{high}"
        self.problems.append(Problem(names[0], what))
        return low

    def wholes(self, *names: str) -> list[int]:
        """A list of whole numbers, one at least."""
        value = self.get(*names)
        if (
            isinstance(value, list)
            and value
            and all(type(item) is int and item >= 0 for item in value)
        ):
            return value
        what = "missing" if value is None else f"{value!r} is no list of whole numbers"
        self.problems.append(Problem(names[0], what))
        return []

    def done(self) -> None:
        """Refuse a config with problems.

        Raises:
            ConfigError: With all of them.
        """
        if self.problems:
            raise ConfigError(self.problems, self._source)
