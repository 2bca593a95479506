"""Options of commands that measure a trained memory."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from engram_cli.options import TEXT
from engram_cli.values import read_count

# The fields of `TextOptions` that decide how a text is read.
RULES = {name: TEXT[name] for name in ("split", "text_key", "add_eos")}

AdapterFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--adapter", metavar="FOLDER", help="A memory by itself: the folder is its base then."
    ),
]
AgainstOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FOLDER",
        help="A model to compare with, such as a control that was trained on the same text; may be "
        "repeated.",
    ),
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="The base to compare with, such as one that was trained on the same text without a "
        "memory. Default: the model without its memory; engram eval has none where training "
        "changed the weights of the base.",
    ),
]
TextOption = Annotated[
    Path | None, typer.Option("--text", help="Text to read: a file or a folder of texts.")
]
CorpusOption = Annotated[
    Path | None,
    typer.Option(
        "--corpus",
        help="Tokens to read: shards of engram corpus build, or Megatron's, datatrove's, llm.c's, "
        "a data set's.",
    ),
]
TablesOption = Annotated[
    Literal["ram", "disk"],
    typer.Option(help="Where the tables are: in memory with the model, or in their files."),
]
ContextOption = Annotated[
    int | None,
    typer.Option(
        metavar="COUNT",
        parser=read_count,
        help="Tokens of a window. Default: those of the training, else 512, or as many as the "
        "model was made for.",
    ),
]
