"""Says what a run will take, how it goes, and what came of it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from engram.training.session import Listeners
from engram.units import format_bytes, format_count, plural
from engram_cli.output import Output, Shown, Table

if TYPE_CHECKING:
    from engram.training.forecast import Forecast
    from engram.training.run import RunNews
    from engram.training.trained import Trained
    from engram_cli.interrupts import Stopping


# Lines of a run, about, where there is no bar.
_LINES = 10


class Watcher(ExitStack):
    """Tells of a run: notes, and a bar on a terminal; of several processes, the first one.

    Args:
        out: Where to.
        stopping: Whether Ctrl-C was pressed.
        words: Words of the command after its name.
    """

    def __init__(self, out: Output, stopping: Stopping, words: Sequence[str]) -> None:
        super().__init__()
        self._out, self._stopping, self._words = out, stopping, words
        self._has_begun = False
        self.is_first = os.environ.get("RANK", "0") == "0"
        self._bar: Any = None

    def listeners(self) -> Listeners:
        """Return the functions that a run is to call."""
        if not self.is_first:
            return Listeners(news=self._wait, should_stop=lambda: self._stopping.wanted)
        return Listeners(
            forecast=self._forecast,
            news=self._news,
            should_stop=lambda: self._stopping.wanted,
        )

    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> bool | None:
        """End the bar; of a run that Ctrl-C ends, name the command that resumes it."""
        ended = super().__exit__(kind, *details)
        if kind is KeyboardInterrupt and self._has_begun:
            self.say_how_to_go_on()
        return ended

    def say_how_to_go_on(self) -> None:
        """Name the command that goes on with an interrupted run."""
        more = [] if "--resume" in self._words else ["--resume"]
        self._out.next_step(shlex.join(["engram", "train", *self._words, *more]))

    def say_next(self, result: Trained) -> None:
        """Name the command that checks the result."""
        if result.options.control in ("dense", "none"):
            return
        self._out.next_step(f"engram verify {shlex.quote(str(result.output))}")

    def _forecast(self, forecast: Forecast) -> None:
        out = self._out
        left = forecast.steps - forecast.done_steps
        tokens = forecast.tokens * left // forecast.steps
        parts = [f"{plural(left, 'step')}, {format_count(tokens)} tokens"]
        if forecast.seconds is not None:
            parts.append(f"{_about(forecast.seconds)} (estimated)")
        if forecast.memory_bytes is not None:
            parts.append(f"about {format_bytes(forecast.memory_bytes)} (estimated)")
        done = forecast.done_steps
        begin = f"Goes on after step {done:,} of {forecast.steps:,}: " if done else "Will take "
        out.note(f"{begin}{', '.join(parts)}.")
        out.note(
            f"{plural(forecast.held_out_tokens, 'token')} are held out; they are evaluated before "
            f"and after, in {_about(forecast.evaluation_seconds)} each (estimated)."
        )
        if forecast.start_rms is not None:
            touches = f"A row of one head is touched {forecast.touches_per_row:,.1f} times"
            moved = "rows start at zero"
            if forecast.movement is not None:
                moved = f"rows will move by at most {forecast.movement:.2g} of their size"
            out.note(f"{touches} on average; {moved}.")
        if forecast.warning is not None:
            out.warn(forecast.warning)
        self._has_begun = True

    def _wait(self, news: RunNews) -> None:
        """Let Ctrl-C wait for the end of a step from the first one on, while there is another."""
        self._stopping.waits = news.step < news.steps

    def _news(self, news: RunNews) -> None:
        self._wait(news)
        # Once, since the bar of older releases of rich puts something else in the place of stderr.
        if self._bar is None and not self._out.quiet and sys.stderr.isatty():
            from engram_cli.step_progress import step_bar

            self._bar = self.enter_context(step_bar("Training"))
        if self._bar is not None:
            self._bar(news)
        elif (
            news.is_evaluation
            or news.step == news.steps
            or news.step % max(1, news.steps // _LINES) == 0
        ):
            self._out.note(_line(news))


def _line(news: RunNews) -> str:
    # The last step is not evaluated; the end is, on all that is held out.
    held_out = f", held out {news.held_out:.4f}" if news.is_evaluation else ""
    moved = "" if news.row_movement is None else f", rows moved by {news.row_movement:.3g}"
    gates = "" if news.gate_mean is None else f", mean gate {news.gate_mean:.3f}"
    return (
        f"Step {news.step:,} of {news.steps:,}: loss {news.loss:.4f}{held_out}, "
        f"{news.tokens_per_second:,.0f} tokens/s, {plural(news.rows_touched, 'row')} touched"
        f"{moved}{gates}"
    )


def show(result: Trained) -> Shown:
    """Describe the result for people."""
    if result.end is None or result.difference is None:
        yield (
            f"Interrupted after {plural(result.steps, 'step')} of {result.forecast.steps:,}; "
            f"saved as {result.checkpoint}."
        )
        return
    rows = [
        (name, f"{it.nats_per_token:.4f}", f"{it.perplexity:.2f}", f"{it.bits_per_byte:.4f}")
        for name, it in (("before", result.start), ("after", result.end))
    ]
    yield Table(rows, ("held out", "nats a token", "perplexity", "bits a byte"), left=("held out",))
    it = result.difference
    yield (
        f"\nDifference {it.nats:+.4f} nats a token, 95 % interval {it.low:+.4f} to {it.high:+.4f} "
        f"({plural(len(result.end.tokens), 'document')}, "
        f"{plural(int(result.end.tokens.sum()), 'token')}; paired bootstrap)."
    )
    moved = ""
    if result.row_movement is not None:
        moved = f"; rows moved by {result.row_movement:.3g} of their size"
    elif result.row_rms is not None:
        moved = f"; rows, which started at zero, have a root mean square of {result.row_rms:.3g}"
    yield (
        f"Trained {plural(result.steps, 'step')}, {format_count(result.tokens)} tokens in "
        f"{_duration(result.seconds)}; loss of the last steps {result.train_nats:.4f}; "
        f"{plural(result.rows_touched, 'row')} touched{moved}."
    )
    yield from result.notes
    if result.options.control is None and result.options.train == "memory":
        yield "What the table adds is known only beside a control: --control frozen-random."


def _about(seconds: float) -> str:
    return "under 1 s" if seconds < 1 else f"about {_duration(seconds)}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
