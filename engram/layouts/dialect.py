"""`Dialect`: the names that some files give a layout's tensors and settings, in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from engram.layouts.settings import Setting
from engram.layouts.tensors import CONSTANTS, TABLE

Role = Literal["table", "dense", "constants"]

_NUMBER = re.compile(r"\d+(?!.*\d)")
_SCALE = re.compile(r"\.(?:scale|weight_scale|weight_scale_inv)$")
_PIECES = {"{stream}": r"(?P<stream>\d+)", "{shard}": r"(?P<shard>\d+)"}


class Key(NamedTuple):
    """What a tensor is, whatever its files call it; scales have the key of what they scale.

    Attributes:
        layer_id: Its layer; None when it belongs to no layer alone.
        name: Our name, or the published one of tensors that we have no name for.
        stream: The residual stream that it is for, where files hold every stream apart.
    """

    layer_id: int | None
    name: str
    stream: int | None = None


@dataclass(frozen=True)
class Slot:
    """Where a tensor belongs in a memory.

    Attributes:
        key: What it is.
        part: Part of the memory that it is counted under, such as ``table`` or ``wkv``.
        role: What kind of part that is.
        is_scale: It holds the scales of the tensor of that key.
        shard: Which piece of the tensor it is; None when it is whole.
        known: Whether the layout has such a tensor.
    """

    key: Key
    part: str
    role: Role
    is_scale: bool = False
    shard: int | None = None
    known: bool = True

    @property
    def layer_id(self) -> int | None:
        """Its layer; None when it belongs to no layer alone."""
        return self.key.layer_id


def without_scale(name: str) -> tuple[str, bool]:
    """Return the name of the weight that a tensor's name speaks of, and whether of its scales."""
    return (_SCALE.sub(".weight", name), True) if _SCALE.search(name) else (name, False)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One way to name a layout's tensors and settings.

    Attributes:
        name: Who names them so.
        root: Start of written names, before `place`; any is read.
        place: A layer's module in the model, such as ``layers.{layer}.engram.``.
        anywhere: Tensors are also read alone, and after any ``engram.`` or number: files of this
            dialect may hold a module instead of a model. Other names there are the model's own.
        names: Their name by ours, in the order of files; ``{stream}`` and ``{shard}`` stand for the
            number of a piece. Constants go by the names of `CONSTANTS`.
        scale: What names of scales have instead of ``weight``.
        model_type: Of a config that is written; None when none is written.
        settings: Keys of the config, in the order of files.
        block_keys: Keys of ``quantization_config`` that state a tensor's block, by our name.
    """

    name: str
    root: str = ""
    place: str
    anywhere: bool = False
    names: Mapping[str, str]
    scale: str = "scale"
    model_type: str | None = None
    settings: tuple[Setting, ...] = ()
    block_keys: Mapping[str, str] | None = None

    def read(self, name: str) -> Slot | None:
        """Tell what a model's tensor is by its name; None for one that is not the memory's."""
        match = self._place.match(name)
        if match is None:
            return None
        number = _NUMBER.search(match["place"])
        return self.read_inside(match["name"], int(number[0]) if number else None)

    def read_inside(self, name: str, layer_id: int | None = None) -> Slot:
        """Tell what a module's tensor is by its name, without its place in the model."""
        plain, is_scale = without_scale(name)
        for ours, pattern in self._patterns.items():
            match = pattern.fullmatch(plain)
            if match is None:
                continue
            pieces = {kind: int(number) for kind, number in match.groupdict().items()}
            key = Key(layer_id, ours, pieces.get("stream"))
            if ours in CONSTANTS:
                return Slot(key, "constants", "constants")
            if ours == TABLE:
                return Slot(key, "table", "table", is_scale, pieces.get("shard"))
            part = self.names[ours].split(".")[0]
            return Slot(key, part, "dense", is_scale, pieces.get("shard"))
        return Slot(Key(layer_id, plain), plain.split(".")[0], "dense", is_scale, known=False)

    def write(
        self, key: Key, shard: int | None = None, *, scale: bool = False, like: str | None = None
    ) -> str:
        """Name a model's tensor.

        Args:
            key: What it is.
            shard: Which piece, where the name has a number for it.
            scale: Name its scales instead.
            like: Name of another tensor of the memory, to take the place in the model from.
        """
        name = self.names.get(key.name, key.name).format(stream=key.stream, shard=shard)
        match = None if like is None else self._place.match(like)
        if match is None:
            place = self.root + self.place.format(layer=key.layer_id)
        else:
            place = _NUMBER.sub(str(key.layer_id), match["place"])
        return place + (name.removesuffix("weight") + self.scale if scale else name)

    def keys(self, layer_id: int | None, streams: int) -> Iterator[Key]:
        """List a layer's tensors in the order of files: those of every stream apart come last."""
        apart = [ours for ours, theirs in self.names.items() if "{stream}" in theirs]
        yield from (Key(layer_id, ours) for ours in self.names if ours not in apart)
        yield from (Key(layer_id, ours, i) for i in range(streams) for ours in apart)

    def setting(self, ours: str) -> Setting | None:
        """Find a setting by our name; None where configs do not state it."""
        return next((setting for setting in self.settings if setting.ours == ours), None)

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        return {ours: re.compile(_pattern(theirs)) for ours, theirs in self.names.items()}

    @cached_property
    def _place(self) -> re.Pattern[str]:
        if self.anywhere:
            names = (re.sub(r"\?P<\w+>", "?:", _pattern(theirs)) for theirs in self.names.values())
            return re.compile(
                rf"(?P<place>(?:(?:.*\.)?(?:engram|\d+)\.)?)(?P<name>{'|'.join(names)})$"
            )
        place = re.escape(self.place).replace(r"\{layer\}", r"\d+")
        return re.compile(rf"(?P<place>(?:.*\.)?{place})(?P<name>.+)$")


def _pattern(name: str) -> str:
    pattern = re.escape(name)
    for piece, number in _PIECES.items():
        pattern = pattern.replace(re.escape(piece), number)
    return pattern
