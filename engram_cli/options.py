"""Options that commands share: each has one name, one type and one help everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engram.errors import InputError

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="No notes and no progress bars.")]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="More notes on stderr.")]

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE|TEMPLATE",
        help="Config file (YAML or JSON), or the name of a template (see `engram config ls`); for "
        "hash also a checkpoint with a memory.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|FOLDER",
        help="Backbone: a name of the built-in catalogue, a folder with config.json, or a hub id.",
    ),
]

OutputOption = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="PATH", help="Where to write the result.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is already at the output path.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")
]


def layer_list(text: str) -> list[int]:
    """Read the value of ``--layers``, such as 1,6.

    Raises:
        InputError: It is not a list of whole numbers.
    """
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise InputError(f"{text!r} is not a list of layers.", "Write it as 1,6.", value=text)
    return [int(word) for word in words]
