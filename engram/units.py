"""Numbers with units: counts (K, M, B: decimal) and bytes (KiB, GiB binary; KB, GB decimal)."""

import re
from collections.abc import Sequence
from decimal import Decimal

from engram.errors import InputError

_DECIMAL = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_COUNT_UNITS = {"": 1, **_DECIMAL, "B": 10**9}
_BYTE_UNITS = {
    "B": 1,
    **_DECIMAL,
    **{f"{unit}B": factor for unit, factor in _DECIMAL.items()},
    **{unit.upper(): factor for unit, factor in _BINARY.items()},
}
_NUMBER = re.compile(r"\s*([0-9][0-9_,]*(?:\.[0-9]+)?|\.[0-9]+)(e\+?[0-9]{1,3})?\s*([A-Za-z]*)\s*")
_MOST = 2**63 - 1


def parse_count(text: str | int) -> int:
    """Read a count such as ``40M``, ``1.5B``, ``1.5e9`` or ``124,439,808``.

    Args:
        text: A whole number, or a number with one of K, M, B (= G), T, all decimal.

    Returns:
        The count.

    Raises:
        InputError: The string is not a count, not a whole number, or above 2^63.
    """
    return _parse(str(text), _COUNT_UNITS, "a count", "40M, 1.5B or 124439808")


def parse_bytes(text: str) -> int:
    """Read a size such as ``8GiB``, ``80GB``, ``80G`` or ``1.5e9``.

    Args:
        text: A number with B, KB, MB, GB, TB (decimal; K, M, G, T are the same) or KiB, MiB, GiB,
            TiB (binary). A number with an exponent is bytes; others need a unit, since a bare 8
            usually means gigabytes.

    Returns:
        The size in bytes.

    Raises:
        InputError: The string is not a size, or above 2^63.
    """
    return _parse(text, _BYTE_UNITS, "a size", "8GiB, 80GB or 1048576B")


def _parse(text: str, units: dict[str, int], what: str, examples: str) -> int:
    def wrong(why: str = "") -> InputError:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        return InputError(f"{shown!r} is not {what}{why}.", f"Write it as {examples}.", value=shown)

    match = _NUMBER.fullmatch(text)
    if match is None:
        raise wrong()
    number, unit = match[1].replace(",", "").replace("_", ""), match[3].upper()
    if match[2]:
        number, units = number + match[2], {"": 1, **units}
    if unit not in units:
        raise wrong("" if unit else ": it has no unit")
    value = Decimal(number) * units[unit]
    if value > _MOST:
        raise wrong(" that anything here can have")
    if value != value.to_integral_value():
        raise wrong(": it is not whole")
    return int(value)


def plural(count: int, noun: str, many: str = "") -> str:
    """Write a count with what is counted: ``1 document``, ``1,234 documents``.

    Args:
        count: The number.
        noun: The singular.
        many: The plural, if it is not the noun plus an s.
    """
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def listed(texts: Sequence[str], most: int, separator: str = ", ") -> str:
    """Join the first of several texts, and say how many more there are.

    Args:
        texts: The texts, at least one.
        most: As many as are shown.
        separator: The text between two of them.
    """
    more = [f"and {len(texts) - most:,} more"] if len(texts) > most else []
    return separator.join([*texts[:most], *more])


def format_count(count: int) -> str:
    """Write a count for people: 124,439,808 as ``124.4M``, small ones whole."""
    sign, count = ("-" if count < 0 else ""), abs(count)
    for unit, factor in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= factor:
            return f"{sign}{count / factor:.4g}{unit}"
    return f"{sign}{count}"


def format_bytes(size_bytes: int) -> str:
    """Write a size for people in binary units: 8589934592 as ``8.00 GiB``."""
    sign, size = ("-" if size_bytes < 0 else ""), abs(size_bytes)
    for unit, factor in reversed(_BINARY.items()):
        if size >= factor:
            return f"{sign}{size / factor:.2f} {unit}"
    return f"{sign}{size} B"
