"""Help pages: a command's docstring, its options, and its examples at the end.

A command's docstring ends with an ``Examples:`` section of lines such as ``$ engram size --model
gpt2``. The tests run all of them.
"""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import typer

from engram_cli.compat import USAGE_ERROR, TyperCommand, TyperGroup, prepare


def split_examples(docstring: str | None) -> tuple[str, str]:
    """Return the text of a docstring, and its examples line by line."""
    text, _, examples = inspect.cleandoc(docstring or "").partition("\nExamples:\n")
    return text, textwrap.dedent(examples).strip("\n")


class _Page:
    """Help of a command or a group of them; before a class of typer's among the bases."""

    epilog: str | None

    def __init__(self, *args: Any, help: str | None = None, **rest: Any) -> None:
        text, rest["epilog"] = split_examples(help)
        rest["short_help"] = " ".join(text.partition("\n\n")[0].split())
        super().__init__(*args, help=text, **rest)  # type: ignore[call-arg]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples unwrapped, so that they can be copied."""
        if self.epilog:
            with formatter.section("Examples"):
                formatter.write(textwrap.indent(self.epilog, " " * formatter.current_indent) + "\n")

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, including the help option."""
        return prepare(super().get_params(ctx))  # type: ignore[misc]


# Former names of options: still read, but not shown in help.
_OLD_NAMES = {
    "--shard-tokens": "--shard-size",
    "--text-key": "--text-column",
    "--threads": "--num-proc",
    "--workers": "--num-proc",
}


def _by_new_name(word: str, known: set[str]) -> str:
    name, equals, value = word.partition("=")
    new = _OLD_NAMES.get(name, name)
    return new + equals + value if new in known else word


class Command(_Page, TyperCommand):
    """One command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command's arguments; options are also known by their former names."""
        known = {name for param in self.get_params(ctx) for name in param.opts}
        end = args.index("--") if "--" in args else len(args)
        words = [_by_new_name(word, known) for word in args[:end]]
        try:
            return super().parse_args(ctx, words + args[end:])
        except USAGE_ERROR as error:
            if getattr(error, "ctx", None) is None:  # an option without its value
                error.ctx = ctx  # type: ignore[attr-defined]
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line after the command's name."""
        return ["[OPTIONS]", *(name for name, _ in self._arguments(ctx))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the lists of arguments and options."""
        options = [
            param.get_help_record(ctx)
            for param in self.get_params(ctx)
            if param.param_type_name == "option" and not param.hidden
        ]
        for title, records in (("Arguments", self._arguments(ctx)), ("Options", options)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def _arguments(self, ctx: Any) -> list[tuple[str, str]]:
        params = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return [(param.metavar or param.name.upper(), param.help or "") for param in params]


class Group(_Page, TyperGroup):
    """A command with subcommands; without one it shows its help and ends as a usage error."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the group's own arguments."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)


def new_app(cls: type[TyperGroup] = Group, **settings: Any) -> typer.Typer:
    """Make a Typer app with the settings of this command line.

    Plain help pages appear in half the time of rich ones, and look the same in a pipe.
    """
    return typer.Typer(
        cls=cls,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **settings,
    )


def command_of(name: str, target: Callable[..., Any] | typer.Typer) -> Any:
    """Turn a command function, or a Typer app of subcommands, into a command of the parser."""
    if not isinstance(target, typer.Typer):
        app = new_app()
        app.command(name, cls=Command)(target)
        target = app
    return typer.main.get_command(target)
