"""`Output`: the one object that prints for commands, in every mode."""

from __future__ import annotations

import json
import os
import re
import select
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from engram.errors import DoesNotFitError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from engram.storage.files import Progress

# Rich cuts tables to 80 columns without a terminal; text in a pipe should not be cut.
PIPE_WIDTH = 1000
# Control characters except tab and newline, which commands print themselves; marks that change
# the direction of text; half surrogates, which represent bytes of names that are not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

# Colours of cells that are a verdict, or one and its reason: "FAILED: it is not there".
_VERDICTS = {"yes": "green", "ok": "green", "no": "red", "FAILED": "red"}


class Table(NamedTuple):
    """Text in columns; cells that do not fit are folded, never cut.

    Attributes:
        rows: Lines of cells: strings, or values that are shown as `str` writes them.
        headings: Names of the columns; without any, the first line is a row.
        left: Names of the columns that are aligned to the left, as those without a name are.
        is_dense: Whether one space is between columns, instead of two.
    """

    rows: Iterable[Sequence[object]]
    headings: Sequence[str] = ()
    left: Sequence[str] = ()
    is_dense: bool = False


class Painted(NamedTuple):
    """A paragraph in colours.

    Attributes:
        pieces: Strings that follow each other, each with its colours as rich names them, such as
            ``black on #ffdddd``; "" for none.
    """

    pieces: Sequence[tuple[str, str]]


# An answer for people: a paragraph, or several and tables. A generator is run only to be shown.
Shown: TypeAlias = Iterable[str | Table]
# One for a terminal that shows colours, see `Output.has_colors`.
ShownInColors: TypeAlias = Iterable[str | Table | Painted]


@dataclass(frozen=True, kw_only=True)
class Output:
    """The answer goes to stdout; notes, warnings and progress go to stderr.

    Args:
        json: Whether the answer is one JSON object instead of text.
        quiet: Whether to leave out notes and progress bars; warnings stay.
        verbose: Whether to print details as well.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    @property
    def has_colors(self) -> bool:
        """Whether the answer goes to a terminal that shows colours, and NO_COLOR is not set."""
        return not self.json and _console().color_system is not None

    def result(
        self, payload: Mapping[str, Any], shown: ShownInColors, *, wrap: bool = True
    ) -> None:
        """Print the answer, once.

        Args:
            payload: The answer for programs; its first key is `schema`.
            shown: The answer for people. Text is printed as it is: square brackets are not markup,
                control characters are escaped.
            wrap: Whether paragraphs are wrapped at the width of the terminal.
        """
        if self.json:
            _print(json.dumps(payload, allow_nan=False) + "\n")
        else:
            self.part(shown, wrap=wrap)

    def part(self, shown: ShownInColors, *, wrap: bool = True) -> None:
        """Print a part of the answer as soon as it is known; with JSON, it all comes at the end.

        Args:
            shown: See `result`.
            wrap: See `result`.
        """
        if not self.json:
            _print(_draw(shown, wrap))

    def note(self, text: str) -> None:
        """Print a note, which is not part of the answer."""
        if not self.quiet:
            _tell(text)

    def next_step(self, text: str) -> None:
        """Print a suggested next command, for people only."""
        if not self.json:
            self.note(f"Next: {text}")

    def detail(self, text: str) -> None:
        """Print a detail, with `-v` only."""
        if self.verbose:
            _tell(text)

    def warn(self, text: str) -> None:
        """Print a warning; `-q` does not silence it."""
        _tell(f"Warning: {text}")

    @contextmanager
    def answering_no(self, payload: Mapping[str, Any]) -> Iterator[None]:
        """Print the JSON answer also when the block ends with "it does not fit".

        Args:
            payload: The start of the answer; the details of the error follow.
        """
        try:
            yield
        except DoesNotFitError as error:
            if self.json:
                self.result({**payload, "fits": False, **error.details}, [])
            raise

    @contextmanager
    def progress(
        self, title: str, unit: str = "bytes", *, has_thread: bool = True
    ) -> Iterator[Progress]:
        """Show a progress bar while the block runs, on a terminal only.

        Args:
            title: Name of the work, such as "Hashing".
            unit: The amounts that it counts: bytes, or something else that is named so.
            has_thread: See `engram_cli.progress.progress_bar`.

        Yields:
            A function to call with the amount done so far and in all (None if unknown).
        """
        if self.quiet or not sys.stderr.isatty():
            yield lambda done, total: None
            return
        from engram_cli.progress import progress_bar

        with progress_bar(printable(title), unit, has_thread=has_thread) as step:
            yield step


def _tell(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _print(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # The exit code stays valid although nobody reads the rest of the answer.
        if not drop_closed_stdout():
            raise


def _console() -> Console:
    """Return the console that draws for stdout, without colours in pipes and with NO_COLOR."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    is_plain = not is_terminal or bool(os.environ.get("NO_COLOR"))
    return Console(
        file=sys.stdout,
        color_system=None if is_plain else "auto",
        no_color=is_plain,  # older releases of rich take an empty NO_COLOR for one that is set
        width=None if is_terminal else PIPE_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
    )


def _draw(shown: ShownInColors, wrap: bool) -> str:
    console = _console()
    with console.capture() as capture:
        for part in [shown] if isinstance(shown, str) else shown:
            if isinstance(part, str):
                console.print(printable(part), soft_wrap=not wrap)
            elif isinstance(part, Painted):
                # The terminal breaks the line: rich would drop spaces there, which may be tokens.
                console.print(_paint(part), soft_wrap=True)
            else:
                console.print(_draw_table(part))
    text = capture.get()
    # Rich pads the cells of a table with spaces, which are not wanted in a file.
    return text if sys.stdout.isatty() else re.sub(r" +$", "", text, flags=re.MULTILINE)


def _draw_table(part: Table) -> RenderableType:
    from rich import table

    drawn = table.Table(
        box=None,
        pad_edge=False,
        show_header=bool(part.headings),
        collapse_padding=part.is_dense,
    )
    rows = [[_draw_cell(cell) for cell in row] for row in part.rows]
    for heading in part.headings or [""] * max(map(len, rows), default=0):
        side: Literal["left", "right"] = "left" if heading in ("", *part.left) else "right"
        drawn.add_column(printable(heading), justify=side, overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def _paint(part: Painted) -> RenderableType:
    from rich.text import Text

    return Text.assemble(*((printable(text), style) for text, style in part.pieces))


def _draw_cell(cell: object) -> RenderableType:
    """Colour a verdict; the console leaves colours out where they are not wanted."""
    from rich.text import Text

    text = printable(str(cell))
    return Text(text, style=_VERDICTS.get(text.partition(":")[0].rstrip(), ""))


def printable(text: str) -> str:
    r"""Return a string with its control characters written as escapes, such as ``\x1b``."""
    return _UNSAFE.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def drop_closed_stdout() -> bool:
    """Discard the rest of stdout if its reader has gone; return whether it has."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    is_closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if is_closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return is_closed


def silence_transformers() -> None:
    """Leave transformers and bitsandbytes only their errors; bars would land in pipes and logs."""
    from logging import ERROR, getLogger

    # It remarks on every projection that it casts.
    getLogger("bitsandbytes").setLevel(ERROR)
    # Where the variable is set, the hub's bars stay, and transformers' own have to be ended.
    if "transformers" not in sys.modules and "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
        from huggingface_hub.utils import disable_progress_bars

        # Read when it is imported, which takes seconds, and may never be.
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"
        disable_progress_bars()
        return
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
