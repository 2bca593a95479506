"""The progress bar of training on a terminal: steps, losses, speed, and time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

if TYPE_CHECKING:
    from engram.training.run import RunNews


@contextmanager
def step_bar(title: str) -> Iterator[Callable[["RunNews"], None]]:
    """Show a bar on stderr while the block runs.

    Args:
        title: Name of the work.

    Yields:
        A function to call after every step.
    """
    # Where the line does not fit, only the bar gets shorter.
    columns = (
        SpinnerColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, numbers="")

        def tell(news: "RunNews") -> None:
            held_out = "" if news.held_out is None else f", held out {news.held_out:.3f}"
            numbers = f"loss {news.loss:.3f}{held_out}, {news.tokens_per_second:,.0f} tokens/s"
            bar.update(task, completed=news.step, total=news.steps, numbers=numbers, refresh=True)

        yield tell
