"""`--plot` and `--html`: checked before a command's work begins, written from its answer."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from engram_cli.output import Output
from engram_cli.values import given_words

# Words that change nothing in a picture or a page.
_LEFT_OUT = {"--json", "--quiet", "--verbose", "--overwrite", "--resume"}


def check_plot(plot: Path | None, overwrite: bool) -> None:
    """Check that a picture can be written, if one was asked for; see `engram.pictures.style`."""
    if plot is not None:
        from engram.pictures.style import check_plot as check

        check(plot, overwrite)


def check_html(html: Path | None, overwrite: bool) -> None:
    """Check that a page can be written, if one was asked for; see `engram.pictures.page`."""
    if html is not None:
        from engram.pictures.page import check_page

        check_page(html, overwrite)


def write_plot(
    out: Output,
    ctx: typer.Context,
    plot: Path,
    draw: Callable[[Mapping[str, Any]], Any],
    answer: Mapping[str, Any],
    source: str,
    *,
    overwrite: bool,
) -> None:
    """Draw the answer of a command, with its words in the caption, and write it.

    Args:
        out: Told of the file.
        ctx: The call.
        plot: The file.
        draw: Makes a figure of the answer.
        answer: The answer, as `--json` prints it.
        source: A sentence on the origin of the numbers.
        overwrite: Whether a file that is there may be replaced.
    """
    from engram.pictures.style import caption, save_figure

    save_figure(draw(answer), plot, caption(source, _words(ctx)), overwrite=overwrite)
    out.note(f"Wrote {plot}.")


def write_html(out: Output, html: Path, text: str, *, overwrite: bool) -> None:
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
    """Return the command as it was given, for the caption of a page."""
    return shlex.join(_words(ctx))


def _words(ctx: typer.Context) -> list[str]:
    words = [word for word in given_words(ctx) if word not in _LEFT_OUT]
    return [*ctx.command_path.split(), *words]
