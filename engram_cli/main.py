"""The Typer `app` and `main()`: finds the command that is asked for and ends with its exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

import engram
from engram_cli.errors import run
from engram_cli.help import Group, command_of, new_app

# Each is the function, or the Typer app, of its own name in the module of its own name.
COMMANDS = tuple(
    name
    for name in ("size", "allocate", "config", "hash", "attach", "report", "verify", "env")
    if Path(__file__).with_name(f"{name}.py").exists()
)


class Commands(Group):
    """Imports a command when it is asked for, and turns whatever it raises into an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of that name, None when there is none."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            module = import_module(f"engram_cli.{cmd_name}")
            self.commands[cmd_name] = command_of(cmd_name, getattr(module, cmd_name))
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command to run; a name that is not one is answered with the nearest."""
        if args[0] not in COMMANDS:
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit."""
        words = sys.argv[1:] if args is None else list(args)
        options = words[: words.index("--")] if "--" in words else words

        def action() -> None:
            with self.make_context("engram", words, **extra) as context:
                self.invoke(context)

        sys.exit(run(action, as_json="--json" in options))


app = new_app(Commands)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"engram {engram.__version__}")
        raise typer.Exit


@app.callback()
def engram_(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Size, build, attach, check and report Engram memories for language models.

    Examples:
        $ engram size --model gpt2
        $ engram config ls
        $ engram env
    """


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
