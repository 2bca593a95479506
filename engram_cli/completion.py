"""`--install-completion` and `--show-completion`: commands and options completed by the shell."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer import completion

from engram.errors import UsageError


def _install(ctx: typer.Context, param: Any, value: bool) -> None:
    _for_this_shell(completion.install_callback, ctx, param, value)


def _show(ctx: typer.Context, param: Any, value: bool) -> None:
    _for_this_shell(completion.show_callback, ctx, param, value)


def _for_this_shell(callback: Any, ctx: typer.Context, param: Any, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    try:
        callback(ctx, param, value)
    except typer.Exit:
        raise UsageError(
            "The shell that this runs in is unknown, or completion is not available for it.",
            "Run it from bash, zsh, fish or PowerShell.",
        ) from None


InstallCompletionOption = Annotated[
    bool,
    typer.Option(
        "--install-completion",
        help="Have this shell complete commands and options; adds to its start-up file.",
        callback=_install,
        is_eager=True,
    ),
]
ShowCompletionOption = Annotated[
    bool,
    typer.Option(
        "--show-completion",
        help="Print the script that --install-completion would install.",
        callback=_show,
        is_eager=True,
    ),
]
