"""`--plot FILE`: checked before the work of a command begins, drawn from its answer at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from engram_cli.output import Output
from engram_cli.values import given_words

# Words that change nothing in a picture.
_LEFT_OUT = {"--json", "--quiet", "--verbose", "--overwrite", "--resume"}


def check_plot(plot: Path | None, overwrite: bool) -> None:
    """Check that a picture can be written, if one was asked for; see `engram.pictures.style`."""
    if plot is not None:
        from engram.pictures.style import check_plot as check

        check(plot, overwrite)


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

    words = [word for word in given_words(ctx) if word not in _LEFT_OUT]
    text = caption(source, [*ctx.command_path.split(), *words])
    save_figure(draw(answer), plot, text, overwrite=overwrite)
    out.note(f"Wrote {plot}.")
