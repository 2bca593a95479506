"""`--html FILE`: checked before a command's work begins, written from its answer at the end."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

from engram_cli.output import Output
from engram_cli.values import given_words

# Words that change nothing in a page.
_LEFT_OUT = {"--json", "--quiet", "--verbose", "--overwrite", "--resume"}


def check_html(html: Path | None, overwrite: bool) -> None:
    """Check that a page can be written, if one was asked for; see `engram.pictures.page`."""
    if html is not None:
        from engram.pictures.page import check_page

        check_page(html, overwrite)


def write_html(out: Output, html: Path, text: str, overwrite: bool) -> None:
    """Write a page.

    Args:
        out: Told of the file.
        html: The file.
        text: The page.
        overwrite: Whether a file that is there may be replaced.
    """
    from engram.pictures.page import write_page

    write_page(html, text, overwrite=overwrite)
    out.note(f"Wrote {html}.")


def command_line(ctx: typer.Context) -> str:
    """The command as it was given, for the caption of a page."""
    words = [word for word in given_words(ctx) if word not in _LEFT_OUT]
    return shlex.join([*ctx.command_path.split(), *words])
