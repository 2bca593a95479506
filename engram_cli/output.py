"""`Output`: everything that a command prints, in every mode, from one call."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from engram.errors import DoesNotFitError
from engram.storage.files import Progress
from engram_cli.errors import drop_closed_stdout
from engram_cli.printable import Printable, printable

if TYPE_CHECKING:
    from rich.console import Console

# Rich cuts tables to 80 columns where there is no terminal; text in a pipe is cut by nobody.
PIPE_WIDTH = 1000
# Progress bars hide the cursor.
_SHOW_CURSOR = "\x1b[?25h"


class Output:
    """The answer goes to stdout; notes, warnings and progress go to stderr.

    Args:
        json: The answer is one JSON object instead of text.
        quiet: No notes and no progress bars; warnings stay.
        verbose: Details as well.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose

    def result(self, payload: Mapping[str, Any], show: Callable[[Console], None]) -> None:
        """Print the answer, once.

        Args:
            payload: The answer for programs; its first key is `schema`.
            show: Prints the answer for people on the console that it is given. Text is printed as
                it is: square brackets are no markup.
        """
        _print(json.dumps(payload, allow_nan=False) + "\n" if self.json else _draw(show))

    def part(self, show: Callable[[Console], None]) -> None:
        """Print a part of the answer as soon as it is known; programs get the whole at the end.

        Args:
            show: See `result`.
        """
        if not self.json:
            _print(_draw(show))

    def note(self, text: str) -> None:
        """Tell the user something that is no part of the answer."""
        if not self.quiet:
            _tell(text)

    def note_from_signal(self, text: str) -> None:
        """Print a note from a handler of signals, which may have interrupted another one."""
        if not self.quiet:
            _write_at_once(f"{printable(text)}\n")

    def leave(self) -> None:
        """Leave the terminal in order when the process is about to end in a handler of signals."""
        if sys.stderr.isatty():
            _write_at_once(_SHOW_CURSOR + "\n")

    def next_step(self, text: str) -> None:
        """Tell people, not programs, what they may want to do now."""
        if not self.json:
            self.note(f"Next: {text}")

    def detail(self, text: str) -> None:
        """Tell the user something that only `-v` asks for."""
        if self.verbose:
            _tell(text)

    def warn(self, text: str) -> None:
        """Warn the user; `-q` does not silence it."""
        _tell(f"Warning: {text}")

    @contextmanager
    def answering_no(self, payload: Mapping[str, Any]) -> Iterator[None]:
        """Let "it does not fit" inside of the block be the answer as well, for programs.

        Args:
            payload: How the answer begins; what the error knows follows.
        """
        try:
            yield
        except DoesNotFitError as error:
            if self.json:
                self.result({**payload, "fits": False, **error.details}, lambda _: None)
            raise

    @contextmanager
    def progress(self, title: str, unit: str) -> Iterator[Progress]:
        """Show a progress bar while the block runs, on a terminal only.

        Args:
            title: What is going on, such as "Hashing".
            unit: What is counted: "B" for bytes, or a plural such as "tokens".

        Yields:
            A function to be called with what is done so far and the total (None when not known).
        """
        if self.quiet or not sys.stderr.isatty():
            yield _ignore
            return
        from engram_cli.progress import progress_bar

        with progress_bar(printable(title), unit) as step:
            yield step


def _tell(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _print(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # The verdict in the exit code stays, though nobody reads the rest of the answer.
        if not drop_closed_stdout():
            raise


def _write_at_once(text: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads it
        os.write(sys.stderr.fileno(), text.encode())


def _ignore(done: int, total: int | None) -> None:
    """Stand for a progress bar where none is shown."""


def _draw(show: Callable[[Console], None]) -> str:
    from rich.console import Console, RenderHook

    class Hook(RenderHook):
        def process_renderables(self, renderables: list[Any]) -> list[Any]:
            return [Printable(renderable) for renderable in renderables]

    is_terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        width=None if is_terminal else PIPE_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
    )
    console.push_render_hook(Hook())
    with console.capture() as capture:
        show(console)
    text = capture.get()
    # Rich fills the cells of a table with blanks, which nobody wants in a file.
    return text if is_terminal else re.sub(r" +$", "", text, flags=re.MULTILINE)
