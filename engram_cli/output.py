"""`Output`: the one object that prints for commands, in every mode."""

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

# Rich cuts tables to 80 columns without a terminal; text in a pipe should not be cut.
PIPE_WIDTH = 1000
# Shows the cursor again, which progress bars hide.
_SHOW_CURSOR = "\x1b[?25h"


class Output:
    """The answer goes to stdout; notes, warnings and progress go to stderr.

    Args:
        json: Whether the answer is one JSON object instead of text.
        quiet: Whether to leave out notes and progress bars; warnings stay.
        verbose: Whether to print details as well.
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
                it is: square brackets are not markup.
        """
        _print(json.dumps(payload, allow_nan=False) + "\n" if self.json else _draw(show))

    def part(self, show: Callable[[Console], None]) -> None:
        """Print a part of the answer as soon as it is known; with JSON, it all comes at the end.

        Args:
            show: See `result`.
        """
        if not self.json:
            _print(_draw(show))

    def note(self, text: str) -> None:
        """Print a note, which is not part of the answer."""
        if not self.quiet:
            _tell(text)

    def note_from_signal(self, text: str) -> None:
        """Print a note from a signal handler, which may have interrupted another print."""
        if not self.quiet:
            _write_at_once(f"{printable(text)}\n")

    def leave(self) -> None:
        """Restore the terminal when the process is about to end in a signal handler."""
        if sys.stderr.isatty():
            _write_at_once(_SHOW_CURSOR + "\n")

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
                self.result({**payload, "fits": False, **error.details}, lambda _: None)
            raise

    @contextmanager
    def progress(self, title: str, unit: str) -> Iterator[Progress]:
        """Show a progress bar while the block runs, on a terminal only.

        Args:
            title: Name of the work, such as "Hashing".
            unit: Unit of the amounts: "B" for bytes, or a plural such as "tokens".

        Yields:
            A function to call with the amount done so far and the total (None if unknown).
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
        # The exit code stays valid although nobody reads the rest of the answer.
        if not drop_closed_stdout():
            raise


def _write_at_once(text: str) -> None:
    with suppress(OSError, ValueError):  # the reader is gone
        os.write(sys.stderr.fileno(), text.encode())


def _ignore(done: int, total: int | None) -> None:
    """Do nothing, in the place of a progress bar."""


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
    # Rich pads the cells of a table with spaces, which are not wanted in a file.
    return text if is_terminal else re.sub(r" +$", "", text, flags=re.MULTILINE)
