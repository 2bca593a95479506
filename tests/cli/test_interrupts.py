"""Ctrl-C where Python would print and forget it: the command ends as ever."""

import os
import signal
import subprocess
import sys
import time

import pytest

from support.cli import TERMINAL

# What a command does is to wait; the interrupt strikes in the callback of a weak reference.
SCRIPT = """
import signal, sys, time, weakref
from engram_cli import main
from engram_cli.interrupts import stopping_at_once
from engram_cli.output import Output
class Thing: pass
def lose(dead):
    signal.raise_signal(signal.SIGINT)
def command():
    thing = Thing()
    watched = weakref.ref(thing, lose)
    del thing
    time.sleep(20)
    print("went on")
def handled():
    with stopping_at_once(Output(json=False, quiet=False, verbose=False)):
        command()
main.app = {action}
main.main()
"""


@pytest.mark.parametrize(
    ("action", "told"), [("command", "Interrupted.\n"), ("handled", "Stopping.\nInterrupted.\n")]
)
def test_an_interrupt_in_a_callback_is_not_lost(action, told):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("{action}", action)],
        env={**os.environ, **TERMINAL},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", told)
    assert time.monotonic() - began < 15


def test_other_exceptions_in_callbacks_are_still_printed():
    script = SCRIPT.replace("{action}", "command").replace("time.sleep(20)", "")
    script = script.replace("signal.raise_signal(signal.SIGINT)", "raise ValueError('odd')")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "went on\n")
    assert "ValueError: odd" in done.stderr


def test_a_block_gives_the_handlers_back():
    from engram_cli.interrupts import no_interrupt_lost

    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGINT)
    with no_interrupt_lost():
        assert sys.unraisablehook is not hook
    assert sys.unraisablehook is hook
    assert signal.getsignal(signal.SIGINT) is handler


# Where the command is over: while it is told, while its end is prepared, and afterwards.
ENDS = {
    "told": ("main.interrupts_end_with = strike", 130),
    "left": ("main.no_interrupt_lost = Leaving", 130),
    "ended": ("main.gc.freeze = strike", 3),
    "exiting": ("import atexit; atexit.register(strike)", 3),
}


@pytest.mark.parametrize("moment", ENDS)
def test_an_interrupt_at_the_end_prints_nothing(moment):
    change, code = ENDS[moment]
    script = f"""
import contextlib, signal, sys
from engram_cli import main
def strike(*code):
    signal.raise_signal(signal.SIGINT)
class Leaving(contextlib.nullcontext):
    def __exit__(self, *error):
        strike()
def command():
    print("done")
    sys.stdout.flush()
    sys.exit(3)
{change}
main.app = command
main.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "done\n", "")


def test_an_interrupt_inside_a_lock_is_an_interrupt():
    """Python answers with `RuntimeError: release unlocked lock`."""
    script = SCRIPT.replace("{action}", "waits")
    script = script.replace(
        "def handled():",
        """
def waits():
    import threading
    lock = threading.Condition(threading.Lock())
    release = lock._release_save
    lock._release_save = lambda: (release(), signal.raise_signal(signal.SIGINT))
    with lock:
        lock.wait()
def handled():""",
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_an_interrupt_while_the_command_line_is_imported_is_one_line():
    script = "import engram_cli.entry as it; "
    script += "import builtins; real = builtins.__import__\n"
    script += "def strike(name, *more):\n"
    script += "    if name == 'typer': raise KeyboardInterrupt\n"
    script += "    return real(name, *more)\n"
    script += "builtins.__import__ = strike\nit.main()\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")
