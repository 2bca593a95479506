"""`engram detach`: gives the base of an attached checkpoint back."""

from pathlib import Path
from typing import Annotated

import typer

import engram
from engram.errors import UsageError
from engram.units import plural
from engram_cli.options import OUTPUT, LinkOption, OutputOption, taking
from engram_cli.output import Output


@taking(out=OUTPUT)
def detach(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder that `engram attach` wrote.")
    ],
    output: OutputOption = None,
    link: LinkOption = False,
    *,
    out: Output,
) -> None:
    """Write the checkpoint that a memory was attached to, byte for byte as it was.

    Examples:
        $ engram detach ./attached-model -o base-again
    """
    if output is None:
        raise UsageError("detach needs a folder to write.", "Pass -o FOLDER.")
    detached = engram.detach(folder, output, link=link)
    files = plural(len(detached.files), "file")
    out.result(detached.to_dict(), f"{output}: {files} of the base.", wrap=False)
