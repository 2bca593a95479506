"""The progress bar on a terminal: amount done, rate, and time left."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

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

# A rate over less time is not reliable.
_LEAST_SECONDS = 0.5
# Between two drawings of a bar that has no thread.
_SECONDS_BETWEEN_DRAWINGS = 0.1


class _AmountColumn(ProgressColumn):
    """Column with the amount done, the total, and the rate.

    Args:
        unit: The amounts that are counted: bytes, or something else that is named so.
        column: Its place in the table.
    """

    def __init__(self, unit: str, column: Column) -> None:
        super().__init__(column)
        self._unit = unit

    def _amount(self, number: float) -> str:
        if self._unit == "bytes":
            return format_bytes(int(number))
        return f"{format_count(int(number))} {self._unit}"

    def render(self, task: Task) -> Text:
        """Format the amounts of a task."""
        done = self._amount(task.completed)
        of = f" / {self._amount(task.total)}" if task.total is not None else ""
        # Rich's own rate is wrong when several reports arrive at once.
        seconds = task.finished_time or task.elapsed or 0.0
        speed = (task.completed - task.fields["begin"]) / max(seconds, _LEAST_SECONDS)
        is_known = speed > 0 and seconds >= _LEAST_SECONDS
        rate = f", {self._amount(speed)}/s" if is_known else ""
        return Text(f"{done}{of}{rate}")


@contextmanager
def progress_bar(
    title: str, unit: str = "bytes", *, has_thread: bool = True
) -> Iterator[files.Progress]:
    """Show a bar on stderr while the block runs.

    Args:
        title: Name of the work.
        unit: The amounts that it counts: bytes, or something else that is named so.
        has_thread: Whether a thread draws it all the time. Without one, which a process that is to
            be forked must not have, it is drawn when the function is called.

    Yields:
        A function to call with the amount done so far and in all.
    """
    # Where the line does not fit, only the bar gets shorter.
    columns = (
        SpinnerColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _AmountColumn(unit, Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, auto_refresh=has_thread) as bar:
        task = bar.add_task(title, total=None, begin=0)
        before: int | None = None
        drawn = 0.0

        def step(done: int, total: int | None) -> None:
            nonlocal before, drawn
            if before is None or done < before:
                # The work of an earlier run does not count for the rate; a second pass starts anew.
                bar.reset(task, total=total, completed=done, begin=done)
            bar.update(task, completed=done, total=total)
            before = done
            is_due = done == total or monotonic() - drawn >= _SECONDS_BETWEEN_DRAWINGS
            if not has_thread and is_due:
                bar.refresh()
                drawn = monotonic()

        yield step
