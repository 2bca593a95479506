"""The Typer `app` and `main()`: finds the command that is asked for and ends with its exit code."""

import gc
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer import completion

import engram
from engram.errors import UsageError
from engram_cli.compat import COMPLETE_VARIABLE, PROGRAM, CompletionItem, complete
from engram_cli.errors import INTERRUPTED, run
from engram_cli.help import Group, command_of, new_app
from engram_cli.interrupts import interrupts_end_with, no_interrupt_lost

# What `engram --help` says, without importing a command. Each is the function, or the Typer app, of
# its own name in the module of its own name.
COMMANDS = {
    "size": "Find the largest memory that a budget or a machine holds.",
    "allocate": "Split sparse parameters between experts and tables by the allocation law.",
    "models": "List the base models whose sizes are known, and show one.",
    "config": "List the templates, write a config, show it, check files.",
    "corpus": "Build token shards from text, show what they hold, check them.",
    "hash": "Turn a text or a token corpus into hash ids, with statistics of every head.",
    "attach": "Write a checkpoint with a memory attached to a base model.",
    "detach": "Give the base of an attached checkpoint back, byte for byte.",
    "convert": "Write a memory in another dtype, or under the names of a published layout.",
    "train": "Train the memory of a model, and write it with its held-out losses.",
    "eval": "Measure whether a memory helps: on, off, rows permuted, its base, and controls.",
    "gates": "Show the gates of a memory at every token of a text, and what it does to the loss.",
    "depth": "Compare the layers of a model with a memory with those of its base.",
    "lookup": "Show which rows of a stored memory a text reads, and their norms.",
    "report": "Count parameters and bytes of a config or a checkpoint, and say whether they fit.",
    "verify": "Check that a memory is wired right: constants, sizes, weights.",
    "constants": "Write what an engine needs to find rows: token map, multipliers, primes.",
    "golden": "Write test vectors to check an engine against: token ids, row ids, rows, outputs.",
    "env": "Show the versions and the machine, for a bug report.",
}


class Commands(Group):
    """Imports a command when it is asked for, and turns whatever it raises into an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of that name, None when there is none."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            module = import_module(f"engram_cli.{cmd_name}")
            self.commands[cmd_name] = command_of(cmd_name, getattr(module, cmd_name))
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command to run."""
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            near = get_close_matches(args[0], COMMANDS, n=1)
            raise UsageError(
                f"Unknown command {args[0]!r}.",
                f"Did you mean {near[0]}?" if near else "See engram --help.",
            )
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """List what completes a word, without importing a command."""
        if incomplete.startswith("-"):
            return list(super().shell_complete(ctx, incomplete))
        found = [(name, text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [CompletionItem(name, help=text) for name, text in found]

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
        instruction = os.environ.get(COMPLETE_VARIABLE)
        if instruction:
            sys.exit(complete(self, instruction))
        words = sys.argv[1:] if args is None else list(args)
        options = words[: words.index("--")] if "--" in words else words

        def action() -> None:
            with self.make_context(PROGRAM, words, **extra) as context:
                self.invoke(context)

        sys.exit(run(action, as_json="--json" in options))


app = new_app(Commands)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"engram {engram.__version__}")
        raise typer.Exit


def _complete(ctx: typer.Context, param: typer.CallbackParam, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    is_install = param.name == "install_completion"
    try:
        (completion.install_callback if is_install else completion.show_callback)(ctx, param, value)
    except typer.Exit:
        raise UsageError(
            "The shell that this runs in is unknown, or completion is not available for it.",
            "Run it from bash, zsh, fish or PowerShell.",
        ) from None


@app.callback()
def engram_(
    version: Annotated[
        bool,
        typer.Option(
            "-V", "--version", help="Show the version.", callback=_show_version, is_eager=True
        ),
    ] = False,
    install_completion: Annotated[
        bool,
        typer.Option(
            "--install-completion",
            help="Have this shell complete commands and options; adds to its start-up file.",
            callback=_complete,
            is_eager=True,
        ),
    ] = False,
    show_completion: Annotated[
        bool,
        typer.Option(
            "--show-completion",
            help="Print the script that --install-completion would install.",
            callback=_complete,
            is_eager=True,
        ),
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
    code: int | str | None = INTERRUPTED  # unless it is said otherwise
    # Ctrl-C may come before there is a command that catches it, or while the first one is told. No
    # context manager catches it here: one may strike in the manager's own code.
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # a name that the terminal lacks must not crash
                stream.reconfigure(errors="backslashreplace")
        try:
            with no_interrupt_lost():
                code = run(app, as_json="--json" in sys.argv)
        except SystemExit as end:
            code = end.code
        interrupts_end_with(code if isinstance(code, int) else 0)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        # Python waits for threads that are still at work, and a second Ctrl-C would be told.
        sys.stderr.flush()
        os._exit(INTERRUPTED)
    # Python would look for garbage once more, which takes a second where torch was imported.
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    main()
