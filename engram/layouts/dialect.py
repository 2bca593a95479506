"""`Dialect`: the names that some files give a layout's tensors and settings, in both directions."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from engram.layouts.settings import Setting
from engram.layouts.tensors import CONSTANTS
from engram.tensor_names import TABLE

Role = Literal["table", "dense", "constants"]
# What a tensor holds of the tensor that it belongs to: its values, or what they are worth nothing
# without: scales, scales of these scales, terms that are added; or what its values do not need.
Side = Literal["values", "scale", "global_scale", "bias", "extra"]

# Longer numbers are of no model, and some are too long for `int`.
_DIGITS = r"\d{1,9}"
_NUMBER = re.compile(rf"(?<!\d){_DIGITS}(?!.*\d)")
# By the end of a name: the side, and what names of the values end with instead.
_SIDES: Mapping[str, tuple[Side, str]] = {
    "scale": ("scale", "weight"),
    "scales": ("scale", "weight"),
    "weight_scale": ("scale", "weight"),
    "weight_scale_inv": ("scale", "weight"),
    "weight_scale_2": ("global_scale", "weight"),
    "biases": ("bias", "weight"),
    "input_scale": ("extra", "weight"),
    "head_bias": ("extra", "trellis"),
}
# Numbers in names, by the word that stands for them in a table.
_NUMBERS = {"layer": "layer", "stream": "number", "table": "number", "shard": "shard"}


class Key(NamedTuple):
    """Identity of a tensor, whatever its files call it; scales share the key of their tensor.

    Attributes:
        layer_id: Its layer; None when it belongs to no layer alone.
        name: Our name, or the published one of tensors that we have no name for.
        number: The residual stream that it is for, where files hold every stream apart; or the
            table, where there are several.
        known: Whether the layout has such a tensor.
    """

    layer_id: int | None
    name: str
    number: int | None = None
    known: bool = True


@dataclass(frozen=True)
class Slot:
    """Place of a tensor in a memory.

    Attributes:
        key: What it is.
        side: The part that it holds of the tensor of that key.
        shard: Which piece of the tensor it is; None when it is whole.
    """

    key: Key
    side: Side = "values"
    shard: int | None = None

    @property
    def is_values(self) -> bool:
        """Whether it holds the values of the tensor of that key."""
        return self.side == "values"

    @property
    def role(self) -> Role:
        """Part of the memory that it belongs to."""
        if self.key.known and self.key.name in CONSTANTS:
            return "constants"
        return "table" if self.key.known and self.key.name == TABLE else "dense"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One way to name a layout's tensors and settings.

    Attributes:
        name: Who names them so.
        root: Start of written names, before `place`; any is read.
        place: Where in the model the memory is, such as ``layers.{layer}.engram.``.
        own: Every tensor in that place is the memory's, known or not; else those of `names` alone.
        anywhere: Tensors are read alone, and after any ``engram.`` or number: files of this dialect
            may hold a module instead of a model.
        names: Their name by ours, in the order of files; ``{stream}``, ``{table}``, ``{shard}`` and
            ``{layer}`` stand for numbers. Constants go by the names of `CONSTANTS`.
        scale: What names of scales have instead of ``weight``.
        model_type: Of a config that is written; None when none is written.
        settings: Keys of the config, in the order of files.
        block_keys: Keys of ``quantization_config`` that state a tensor's block, by our name.
        shapes: Shapes by our name, in letters, that files of this dialect may have instead of the
            layout's; they differ in the order of dimensions of one element alone.
    """

    name: str
    root: str = ""
    place: str = ""
    own: bool = True
    anywhere: bool = False
    names: Mapping[str, str]
    scale: str = "scale"
    model_type: str | None = None
    settings: tuple[Setting, ...] = ()
    block_keys: Mapping[str, str] | None = None
    shapes: Mapping[str, str] = field(default_factory=dict)

    def read(self, name: str, *, inside: bool = False) -> Slot | None:
        """Tell what a tensor is by its name; None for one that is not the memory's.

        Args:
            name: Its name in a model.
            inside: The name is one in the memory's module, without its place in the model.
        """
        if not inside and not any(stem in name for stem in self._stems):
            return None
        layer_id: int | None = None
        plain, side = _values_of(name)
        if not inside:
            match = self._place.match(plain)
            if match is None:
                return None
            number = _NUMBER.search(match["place"]) if self._numbered else None
            plain, layer_id = match["name"], int(number[0]) if number else None
        for ours, pattern in self._patterns.items():
            match = pattern.fullmatch(plain)
            if match is not None:
                found = {kind: int(number) for kind, number in match.groupdict().items()}
                key = Key(found.get("layer", layer_id), ours, found.get("number"))
                return Slot(key, side, found.get("shard"))
        return Slot(Key(layer_id, plain, known=False), side)

    def knows(self, name: str) -> bool:
        """Whether it has that name for one of the layout's tensors."""
        slot = self.read(name)
        return slot is not None and slot.key.known

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
        values = {"layer": key.layer_id, "stream": key.number, "table": key.number, "shard": shard}
        name = self.names[key.name].format(**values)
        place = self.root + self.place.format(**values)
        if like is not None and (match := self._place.match(_values_of(like)[0])):
            place = match["place"]
            place = _NUMBER.sub(str(key.layer_id), place) if self._numbered else place
        return place + (name.removesuffix("weight") + self.scale if scale else name)

    def keys(self, layer_id: int | None, streams: int) -> Iterator[Key]:
        """List a layer's tensors in the order of files: those of every stream apart come last."""
        apart = [ours for ours, theirs in self.names.items() if "{stream}" in theirs]
        yield from (Key(layer_id, ours) for ours in self.names if ours not in apart)
        yield from (Key(layer_id, ours, i) for i in range(streams) for ours in apart)

    def setting(self, ours: str) -> Setting | None:
        """Find a setting by our name; None where configs do not state it."""
        return next((setting for setting in self.settings if setting.ours == ours), None)

    @property
    def _numbered(self) -> bool:
        """Whether the place has the layer's number."""
        return self.anywhere or "{layer}" in self.place

    @cached_property
    def _stems(self) -> set[str]:
        """Texts that tell most of a model's own names from the memory's, faster than patterns."""
        if self.own:
            return {self.place.rpartition("}")[2]}
        names = (name.removesuffix("weight") for name in self.names.values())
        return {max(re.split(r"\{\w+\}", name), key=len) for name in names}

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        return {ours: re.compile(_pattern(theirs)) for ours, theirs in self.names.items()}

    @cached_property
    def _place(self) -> re.Pattern[str]:
        names = "|".join(_pattern(theirs, named=False) for theirs in self.names.values())
        root = r"(?:.*\.)?" + _pattern(self.place, named=False)
        if self.anywhere:
            root = rf"(?:(?:.*\.)?(?:engram|{_DIGITS})\.)?"
        return re.compile(rf"(?P<place>{root})(?P<name>{'.+' if self.own else names})$")


def _values_of(name: str) -> tuple[str, Side]:
    """Name the values that a tensor belongs to, and say what it holds of them."""
    start, _, end = name.rpartition(".")
    if not start or end not in _SIDES:
        return name, "values"
    side, values = _SIDES[end]
    return f"{start}.{values}", side


def _pattern(name: str, *, named: bool = True) -> str:
    def number(word: re.Match[str]) -> str:
        return f"(?P<{_NUMBERS[word[1]]}>{_DIGITS})" if named else _DIGITS

    return re.sub(r"\\\{(\w+)\\\}", number, re.escape(name))
