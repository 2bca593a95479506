"""Numbers with units: what is read, what is refused with what would be right, plurals."""

from __future__ import annotations

import pytest

from engram.errors import InputError
from engram.units import parse_bytes, parse_count, plural


@pytest.mark.parametrize(
    ("text", "count"),
    [
        *(("40M", 40_000_000), ("1.5B", 1_500_000_000), ("2g", 2_000_000_000), ("0", 0)),
        *(("124,439,808", 124_439_808), ("1_000", 1000), (".5K", 500), (7, 7), ("9T", 9 * 10**12)),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 2**33),
        ("80GB", 80 * 10**9),
        ("1.5 KiB", 1536),
        ("1048576B", 2**20),
        ("1tib", 2**40),
        ("24G", 24 * 10**9),
        ("1.5e9", 1_500_000_000),
        ("2e3MiB", 2000 * 2**20),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "abc", "-5", "1e", "1e-9", "nan", "inf", "4 apples", "1.2.3"])
def test_what_is_no_number(text):
    for read in (parse_count, parse_bytes):
        with pytest.raises(InputError, match="is not a") as caught:
            read(text)
        assert caught.value.hint.startswith("Write it as ")


def test_a_size_says_its_unit():
    with pytest.raises(InputError, match=r"^'8' is not a size: it has no unit\.") as caught:
        parse_bytes("8")
    assert "8GiB" in caught.value.hint


def test_numbers_that_are_too_large_are_not_printed_whole():
    for text in ("9" * 5000, "9223372036854775808", "10000000000T"):
        with pytest.raises(InputError, match="that anything here can have") as caught:
            parse_count(text)
        assert len(caught.value.message) < 120


def test_parts_of_a_parameter():
    with pytest.raises(InputError, match="it is not whole"):
        parse_count("1.5")
    with pytest.raises(InputError, match="it is not whole"):
        parse_count("1.0000000001K")


def test_plural():
    assert plural(1, "document") == "1 document"
    assert plural(0, "document") == "0 documents"
    assert plural(1234, "document") == "1,234 documents"
    assert plural(2, "query", "queries") == "2 queries"
