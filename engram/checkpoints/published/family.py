"""`Released`: a released checkpoint, recognised, and the tensors that it should hold."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engram.config.engram_config import EngramConfig
from engram.errors import ConfigError, Problem
from engram.layouts.base import Naming
from engram.layouts.dialect import Dialect, Key, Side, Slot
from engram.layouts.settings import Setting, read_settings
from engram.storage.safetensors_headers import TensorInfo
from engram.storage.stored import Stored


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A tensor as the config calls for it.

    Attributes:
        shape: Its shape in values, all shards together; quantised ones may be packed.
        block: Rows and columns of values that share one scale, for tensors whose scales may lie no
            other way; None when the family knows several.
        shards: Pieces that it is stored in.
        other: Another shape that the files' dialect knows, of the same values in the same order.
    """

    shape: tuple[int, ...]
    block: tuple[int, int] | None = None
    shards: int = 1
    other: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Released:
    """A released checkpoint, recognised: its files, and the memory that they should hold.

    Attributes:
        family: Its names; those of checkpoints that name and lay out their memory alike.
        stored: Its files.
        config: The memory in our terms; None for a kind of memory that we do not run.
        reads: Rows that a token reads of each table.
        hash_rows: Rows that ids can reach, by layer.
        expected: Every tensor by its key.
        note: Text that should be said with the numbers.
    """

    family: Naming
    stored: Stored
    config: EngramConfig | None = None
    reads: int
    hash_rows: Mapping[int | None, int]
    expected: Mapping[Key, Expected]
    note: str

    @cached_property
    def slots(self) -> dict[str, Slot]:
        """Places of the memory's tensors, by their names in the files."""
        found = {name: self.family.read(name) for name in self.stored.tensors}
        return {name: slot for name, slot in found.items() if slot is not None}

    @property
    def title(self) -> str:
        """One line for people."""
        return self.family.files_title or self.family.title

    def names(self, key: Key, side: Side = "values") -> list[str]:
        """Names in the files of a tensor's pieces, or of what belongs to them, in order."""
        return self._names.get((key, side), [])

    @cached_property
    def _names(self) -> dict[tuple[Key, Side], list[str]]:
        found: dict[tuple[Key, Side], list[str]] = {}
        for name, slot in sorted(self.slots.items(), key=lambda item: item[1].shard or 0):
            found.setdefault((slot.key, slot.side), []).append(name)
        return found

    def infos(self, key: Key, side: Side = "values") -> list[TensorInfo]:
        """Return the header entries of a tensor's pieces, or of what belongs to them, in order."""
        return [self.stored.tensors[name] for name in self.names(key, side)]

    def missing(self, key: Key) -> list[str]:
        """Names of an expected tensor's pieces that are not in the files."""
        there = {self.slots[name].shard for name in self.names(key)}
        if None in there:
            return []
        shards = range(self.expected[key].shards)
        return [self.name_of(key, shard) for shard in shards if shard not in there]

    @cached_property
    def dialect(self) -> Dialect:
        """The names that the files speak."""
        return self.family.spoken(self.slots)

    def name_of(self, key: Key, shard: int | None, *, scale: bool = False) -> str:
        """Name a tensor as these files would, whether they hold it or not."""
        of_layer = (name for name, slot in self.slots.items() if slot.key.layer_id == key.layer_id)
        like = next(of_layer, next(iter(self.slots), None))
        return self.dialect.write(key, shard, scale=scale, like=like)


def demand_settings(
    settings: Iterable[Setting], stored: Stored, problems: Iterable[Problem] = ()
) -> dict[str, Any]:
    """Read the settings of a checkpoint's config.

    Args:
        settings: The keys to read.
        stored: The checkpoint.
        problems: What else is wrong with its config.

    Raises:
        ConfigError: Everything that is wrong with them.
    """
    values, found = read_settings(settings, stored.config)
    if found := [*found, *problems]:
        raise ConfigError(found, f"{stored.name}: config.json")
    return values
