"""The progress bar on a terminal: bytes or tokens done, rate, and time left."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from engram.storage import files
from engram.units import format_bytes, format_count

if TYPE_CHECKING:
    from engram_cli.output import Unit

_FORMATS: Mapping["Unit", Callable[[int], str]] = {
    "bytes": format_bytes,
    "tokens": lambda count: f"{format_count(count)} tokens",
}
# A rate over less time is not reliable.
_LEAST_SECONDS = 0.5


class _AmountColumn(ProgressColumn):
    """Column with the amount done, the total, and the rate."""

    def __init__(self, unit: "Unit") -> None:
        super().__init__(Column(no_wrap=True))
        self._format = _FORMATS[unit]

    def render(self, task: Task) -> Text:
        """Format the amounts of a task."""
        done = self._format(int(task.completed))
        of = f" / {self._format(int(task.total))}" if task.total is not None else ""
        # Rich's own rate is wrong when several reports arrive at once.
        seconds = task.finished_time or task.elapsed or 0.0
        speed = (task.completed - task.fields["begin"]) / max(seconds, _LEAST_SECONDS)
        is_known = speed > 0 and seconds >= _LEAST_SECONDS
        rate = f", {self._format(int(speed))}/s" if is_known else ""
        return Text(f"{done}{of}{rate}")


@contextmanager
def progress_bar(title: str, unit: "Unit" = "bytes") -> Iterator[files.Progress]:
    """Show a bar on stderr while the block runs.

    Args:
        title: Name of the work.
        unit: Unit of the amounts.

    Yields:
        A function to call with the amount done so far and in all.
    """
    # Where the line does not fit, only the bar gets shorter.
    columns = (
        SpinnerColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _AmountColumn(unit),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, begin=0)
        before: int | None = None

        def step(done: int, total: int | None) -> None:
            nonlocal before
            if before is None or done < before:
                # The work of an earlier run does not count for the rate; a second pass starts anew.
                bar.reset(task, total=total, completed=done, begin=done)
            bar.update(task, completed=done, total=total)
            before = done

        yield step
