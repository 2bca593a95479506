"""The public names of the doors below `engram`: sorted, lazy, documented and typed."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import engram.evaluation
import engram.pictures
import engram.training

DOORS = [engram.training, engram.evaluation, engram.pictures]
NAMES = [(door, name) for door in DOORS for name in door.__all__]
FUNCTIONS = [(door, name) for door, name in NAMES if inspect.isfunction(getattr(door, name))]


@pytest.mark.parametrize("door", DOORS)
def test_names_are_sorted_and_imported_when_they_are_used(door):
    assert door.__all__ == sorted(door.__all__) == dir(door)
    code = (
        f"import sys, {door.__name__}\n"
        "import engram.training\n"
        "engram.training.TrainOptions()\n"
        "assert not {'torch', 'transformers', 'numpy', 'accelerate'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = door.nothing


@pytest.mark.parametrize("door", DOORS)
def test_type_checkers_see_every_name(door):
    source = inspect.getsource(door)
    stated = source.partition("if TYPE_CHECKING:")[2].partition("# By module")[0]
    for name in door.__all__:
        assert name in stated, name


@pytest.mark.parametrize(("door", "name"), [it for it in NAMES if not it[1].isupper()])
def test_functions_and_classes_are_documented(door, name):
    assert inspect.getdoc(getattr(door, name)).splitlines()[0].endswith(".")


@pytest.mark.parametrize(("door", "name"), FUNCTIONS)
def test_functions_state_their_arguments_and_types(door, name):
    function = getattr(door, name)
    lines = [line.strip() for line in inspect.getdoc(function).splitlines()]
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        assert any(line.startswith(f"{stars}{parameter.name}:") for line in lines), parameter
    assert "return" in function.__annotations__
