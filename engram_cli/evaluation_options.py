"""Options of commands that measure a trained memory."""

from pathlib import Path
from typing import Annotated, Literal

import typer

AdapterFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="FOLDER",
        help="A memory by itself; the folder is its base then.",
    ),
]
AgainstOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FOLDER",
        help="A model to compare with, such as a control that was trained on the same text; may be "
        "repeated.",
    ),
]
TextOption = Annotated[
    Path | None, typer.Option("--text", help="Text to read: a file or a folder of texts.")
]
CorpusOption = Annotated[
    Path | None, typer.Option("--corpus", help="Token shards to read: engram corpus build.")
]
TablesOption = Annotated[
    Literal["ram", "disk"],
    typer.Option(help="Where the tables are: in memory with the model, or in their files."),
]
