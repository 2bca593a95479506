"""What is refused of a call from Python, and how it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from engram.arguments import check_fields, checked
from engram.errors import UsageError

if TYPE_CHECKING:
    from unknown_package import Unknown


@checked(count=1)
def take(
    path: str | Path,
    count: int = 3,
    *,
    form: Literal["npy", "parquet"] = "npy",
    layers: Sequence[int] | None = None,
    share: str | float | Fraction | None = None,
    flag: bool = False,
    call: Callable[[int], None] | None = None,
    settings: Mapping[str, Any] | None = None,
    other: Unknown | None = None,
    **more: Any,
) -> str:
    """Take what is right."""
    return f"{path} {count}"


@dataclass(frozen=True, kw_only=True)
class Options:
    size: int | None = None
    form: Literal["npy", "parquet"] = "npy"

    def __post_init__(self) -> None:
        check_fields(self, size=0)


@dataclass(frozen=True, kw_only=True)
class MoreOptions(Options):
    layers: Sequence[int] | None = None


def test_what_is_right_passes():
    assert take("a") == "a 3"
    assert take(Path("a"), np.int64(2), layers=(1, 2), share=0.5, call=print) == "a 2"
    assert take("a", 1, share=Fraction(1, 2), settings={"a": 1}, other=object(), more=5) == "a 1"
    assert take("a", form="parquet", layers=np.arange(3).tolist(), flag=True, share=1) == "a 3"
    assert take.__doc__ == "Take what is right."
    MoreOptions(size=0, layers=[1])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"path": 5}, "path must be a text or a Path, got 5 (int)."),
        ({"count": "40M"}, "a whole number, got '40M' (str).\nGive the number itself: 40_000_000."),
        ({"count": "8GiB"}, "Give the number itself: 8_589_934_592."),
        ({"count": "many"}, "count must be a whole number, got 'many' (str)."),
        ({"count": True}, "count must be a whole number, got True (bool)."),
        ({"count": 2.5}, "count must be a whole number, got 2.5 (float)."),
        ({"count": 0}, "count must be >= 1, got 0."),
        ({"form": "csv"}, "form must be one of 'npy', 'parquet', got 'csv' (str)."),
        (
            {"layers": "1,5"},
            "layers must be a list (of each: a whole number) or None, got '1,5' (str).",
        ),
        ({"layers": [1, "5"]}, "layers must be a list"),
        ({"flag": 1}, "flag must be True or False, got 1 (int)."),
        ({"call": "print"}, "call must be a"),
        ({"settings": [1]}, "settings must be a"),
        ({"path": "x" * 100, "count": "y" * 200}, "..."),
    ],
)
def test_what_is_not_meant_is_refused_by_name(given, words):
    with pytest.raises(UsageError) as caught:
        take(**{"path": "a", **given})
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": "4"}, "size must be a whole number or None, got '4' (str)."),
        ({"size": -1}, "size must be >= 0, got -1."),
        ({"form": "csv"}, "form must be one of"),
        ({"layers": 1}, "layers must be a list"),
    ],
)
def test_options_are_checked_with_those_of_their_parents(values, words):
    with pytest.raises(UsageError, match=words.replace("(", r"\(").replace(")", r"\)")):
        MoreOptions(**values)


def test_too_many_arguments_stay_a_type_error():
    with pytest.raises(TypeError, match="missing a required argument"):
        take()
