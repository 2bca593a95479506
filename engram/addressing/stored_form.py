"""Checks the form of stored constants before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engram.errors import CorruptFileError

_LIMIT = 2**63


def check_form(values: Any) -> None:
    """Raise an error for values that do not have the form that `Addresses.to_dict` writes.

    Args:
        values: The stored values.

    Raises:
        CorruptFileError: A value is missing, has the wrong type, or is out of range.
    """
    _demand(isinstance(values, Mapping), "they are", values, "an object")
    _text(values, "layout")
    map_sha256 = _value(values, "map_sha256")
    _demand(map_sha256 is None or type(map_sha256) is str, "map_sha256 is", map_sha256, "a text")
    for key in ("raw_vocab_size", "vocab_size"):
        _whole(values, key, least=1)
    _whole(values, "fill")
    if values.get("end_id") is not None:
        _whole(values, "end_id")
    layers = _list(values, "layers")
    shapes = []
    for layer in layers:
        _demand(isinstance(layer, Mapping), "a layer is", layer, "an object")
        shapes.append(_shape_of(layer))
    ids = [layer["layer_id"] for layer in layers]
    _demand(len(set(ids)) == len(ids), "the layer_ids are", ids, "all different")
    _demand(len(set(shapes)) == 1, "the layers have", shapes, "as many orders and heads each")


def _shape_of(layer: Mapping[str, Any]) -> tuple[int, int]:
    """Check a layer, and return its orders and heads."""
    _whole(layer, "layer_id")
    rows = _list(layer, "primes")
    for row in rows:
        alike = type(row) is list and len(row) == len(rows[0]) > 0
        right = alike and all(type(prime) is int and 0 < prime < _LIMIT for prime in row)
        _demand(right, "primes has", row, "as many positive whole numbers in each order")
    factors = _list(layer, "multipliers")
    for factor in factors:
        digits = type(factor) is str and factor.isascii() and factor.isdigit() and len(factor) < 20
        _demand(digits and int(factor) < _LIMIT, "multipliers has", factor, "a string of digits")
    count = len(rows) + 1
    _demand(len(factors) == count, "multipliers has", factors, f"{count} factors")
    _whole(layer, "stored_rows", least=sum(sum(row) for row in rows))
    return len(rows), len(rows[0])


def _value(values: Mapping[str, Any], key: str) -> Any:
    if key not in values:
        raise _damaged(f"{key} is missing")
    return values[key]


def _text(values: Mapping[str, Any], key: str) -> None:
    value = _value(values, key)
    _demand(type(value) is str, f"{key} is", value, "a text")


def _whole(values: Mapping[str, Any], key: str, least: int = 0) -> None:
    value = _value(values, key)
    right = type(value) is int and least <= value < _LIMIT
    _demand(right, f"{key} is", value, f"a whole number, at least {least}")


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    value = _value(values, key)
    if type(value) is not list or not value:
        raise _damaged(f"{key} is {value!r:.80}, not a list with at least one item")
    return value


def _demand(right: bool, what: str, value: Any, expected: str) -> None:
    if not right:
        raise _damaged(f"{what} {value!r:.80}, not {expected}")


def _damaged(what: str) -> CorruptFileError:
    return CorruptFileError(
        f"The memory's stored addresses are damaged: {what}.",
        "Copy the files again from their source, or make the memory again.",
    )
