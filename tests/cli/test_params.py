"""Option values are read by plain Python: right values, clear refusals, no pydantic."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer

from engram_cli.help import Command, new_app
from engram_cli.values import read_bytes
from support.cli import imported_by

NAMES = ("text", "rest", "count", "part", "kind", "ids", "flag")


def parse(words, *names):
    seen = {}
    app = new_app()

    @app.command("one", cls=Command)
    def one(
        text: str,
        rest: Annotated[list[Path] | None, typer.Argument()] = None,
        count: Annotated[int, typer.Option(min=1, max=9)] = 3,
        part: float | None = None,
        kind: Literal["order", "head"] = "order",
        ids: Annotated[list[int] | None, typer.Option("--id")] = None,
        flag: Annotated[bool | None, typer.Option("--flag/--no-flag")] = None,
        size: Annotated[int | None, typer.Option(parser=read_bytes)] = None,
    ):
        seen.update(locals())

    @app.command("two", cls=Command)
    def two():
        pass

    typer.main.get_command(app)(["one", *words], standalone_mode=False)
    return {name: seen[name] for name in names or NAMES}


def test_defaults():
    expected = {"rest": None, "count": 3, "part": None, "kind": "order", "ids": None, "flag": None}
    assert parse(["a"]) == {"text": "a", **expected}


def test_values():
    words = ["a", "b", "c", "--count", "9", "--part", "1e-3", "--kind", "head"]
    words += ["--id", "1", "--id", "2", "--no-flag"]
    assert parse(words) == {
        "text": "a",
        "rest": [Path("b"), Path("c")],
        "count": 9,
        "part": 0.001,
        "kind": "head",
        "ids": [1, 2],
        "flag": False,
    }


@pytest.mark.parametrize(
    ("words", "value", "wording"),
    [
        (["--count", "x"], "'x'", "'x' is not a whole number."),
        (["--count", "1.5"], "'1.5'", "'1.5' is not a whole number."),
        (["--count", "0"], "0", "0 is not at least 1."),
        (["--count", "10"], "10", "10 is not at most 9."),
        (["--part", "half"], "'half'", "'half' is not a number."),
        (["--kind", "Head"], "'Head'", "'Head' is not one of order, head."),
        (["--id", "1", "--id", "b"], "'b'", "'b' is not a whole number."),
        (
            ["--size", "8"],
            "'8'",
            "'8' is not a size: it has no unit. Write it as 8GiB, 80GB or 1048576B.",
        ),
    ],
)
def test_refusals(words, value, wording):
    with pytest.raises(typer.BadParameter) as refusal:
        parse(["a", *words])
    assert value in refusal.value.message
    if hasattr(refusal.value.param, "_runtime_param"):  # a typer that reads through pydantic
        assert refusal.value.message == wording


def test_values_that_the_library_reads():
    assert parse(["a", "--size", "8GiB"], "size") == {"size": 2**33}


def test_a_path_with_checks_is_left_to_typer(tmp_path):
    app = new_app()

    @app.command("one", cls=Command)
    def one(path: Annotated[Path, typer.Argument(exists=True)]):
        pass

    with pytest.raises(typer.BadParameter, match="does not exist"):
        typer.main.get_command(app)([str(tmp_path / "none")], standalone_mode=False)


def test_no_command_needs_pydantic():
    done, modules = imported_by("env")
    done.ended()
    assert "pydantic" not in modules
