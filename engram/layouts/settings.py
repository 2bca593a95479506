"""`Setting`: a key of a published config.json, read and written by the same row of a table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engram.errors import ConfigError, Problem

# More than any model has: a config that says so would only keep the machine busy.
MOST_ORDERS, MOST_HEADS, MOST_LAYERS, MOST_SHARDS = 16, 256, 4096, 65536


@dataclass(frozen=True)
class Setting:
    """A key of a published config.

    Attributes:
        ours: What it means: a key of our config, or one of the quantities ``rows_per_head`` (one
            number for all orders), ``row_width``, ``memory_width``, ``stored_rows`` (of every
            layer), ``compressed_vocab_size`` and ``shards``.
        theirs: Its name, then other names that are read.
        low: Least whole number.
        high: Largest whole number.
        kind: ``whole`` number, list of ``wholes``, ``number``, ``first`` of a list or alone, or
            ``any`` value, which our config checks.
        default: Value where it is not stated, or our name of the setting whose value it is then.
        needed: Whether it must be stated, if it has no default; else our config's own is used.
        counted_from: Number of the first layer, in lists of layers.
        read: Whether our config is read from it; else it is only written, and checked.
        written: Whether it is written.
    """

    ours: str
    theirs: tuple[str, ...]
    low: int = 1
    high: int = 2**48
    kind: Literal["whole", "wholes", "number", "first", "any"] = "whole"
    default: int | str | None = None
    needed: bool = True
    counted_from: int = 0
    read: bool = True
    written: bool = True

    def stated(self, config: Mapping[str, Any]) -> Any:
        """The value of the first of its names that a config states; None without one.

        Args:
            config: A config.json; the part of it that is the text model's comes first.
        """
        parts = (part for part in (config.get("text_config"), config) if isinstance(part, Mapping))
        values = (part.get(name) for part in parts for name in self.theirs)
        return next((value for value in values if value is not None), None)

    def counted(self, value: Any, sign: Literal[1, -1]) -> Any:
        """Count layers as the published config does (1), or from 0 as ours does (-1)."""
        first = sign * self.counted_from
        return [item + first for item in value] if first and value else value

    def problem(self, value: Any) -> str | None:
        """Say what is wrong with a value; None when nothing is."""
        if value is None:
            return "missing" if self.needed and self.kind not in ("first", "any") else None
        if self.kind == "whole":
            right = type(value) is int and self.low <= value <= self.high
            return None if right else f"{value!r} is not a whole number in {self.low}..{self.high}"
        if self.kind == "wholes":
            items = value if isinstance(value, list) else []
            right = bool(items) and all(type(item) is int and item >= 0 for item in items)
            return None if right else f"{value!r} is not a list of whole numbers"
        if self.kind == "number":
            right = type(value) in (int, float) and 0 < value < 2**31
            return None if right else f"{value!r} is not a number above 0"
        return None


def read_settings(
    settings: Iterable[Setting], config: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Problem]]:
    """Read the settings of a published config.

    Returns:
        Values by our names, of those that are right and stated, or have a default; and everything
        that is wrong.
    """
    values: dict[str, Any] = {}
    problems = []
    for setting in (setting for setting in settings if setting.read):
        value = setting.stated(config)
        if value is None and isinstance(setting.default, str):
            value = values.get(setting.default, setting.low)
        value = setting.default if value is None else value
        if problem := setting.problem(value):
            problems.append(Problem(setting.theirs[0], problem))
            continue
        if setting.kind == "first" and isinstance(value, list):
            value = value[0] if value else None
        if value is not None:
            values[setting.ours] = setting.counted(value, -1)
    return values, problems


def write_settings(settings: Iterable[Setting], values: Mapping[str, Any]) -> dict[str, Any]:
    """Write values by our names as a published config states them."""
    return {one.theirs[0]: one.counted(values[one.ours], 1) for one in settings if one.written}


def config_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the values of a published config into the keys of our config.

    Raises:
        ConfigError: The memory's width is not that of so many orders.
    """
    keys = dict(values)
    orders, heads = keys["max_ngram_size"] - 1, keys["n_head_per_ngram"]
    keys.pop("shards", None)
    if "rows_per_head" in keys:
        keys["engram_table_size"] = [keys.pop("rows_per_head") * heads] * orders
    if "row_width" in keys:
        keys["n_embed_per_ngram"] = keys.pop("row_width") * heads
    if "memory_width" in keys:
        width = keys.pop("memory_width")
        if width % orders:
            problem = f"{width} is not a multiple of {orders}, the number of orders"
            raise ConfigError([Problem("memory_width", problem)], "config.json")
        keys["n_embed_per_ngram"] = width // orders
    return keys
