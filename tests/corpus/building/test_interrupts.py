"""Ctrl-C once or twice at random moments: the prompt is back at once, and --resume goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from engram.corpus.building.local_engine import _interrupts_blocked
from support.corpora import digests
from support.paths import BPE

# Units and shards are small, so that there is something to go on from.
SCRIPT = """
from engram.corpus.building import units
units.UNIT_BYTES = 200_000
from engram_cli.main import main
main()
"""
COMMANDS = {
    "build": ["corpus", "build", "text.txt", "-o", "out", "--shard-size", "100000"],
    "hash": ["hash", "text.txt", "-o", "out", "--shard-tokens", "100000"],
}


@pytest.fixture(scope="module")
def text():
    return "".join(f"Paragraph {i} on the Milky Way and {i * 7919}.\n\n" for i in range(60_000))


def start(folder, name, workers, *more):
    words = [*COMMANDS[name], "-t", str(BPE), "-j", str(workers), *more]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, as a shell gives each command
    )


def finish(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return errors


def interrupt(process):
    """Send what a terminal sends to all processes of the command; returns the time."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    return time.monotonic()


def check(folder, text, name, workers, seed, repetitions):
    """Interrupt a command once or twice, and compare what --resume makes with a whole run."""
    moments = random.Random(seed)
    (folder / "text.txt").write_text(text)
    began = time.monotonic()
    finish(start(folder, name, workers))
    seconds = time.monotonic() - began
    expected = digests(folder / "out")
    for path in (folder / "out").iterdir():
        path.unlink()
    for _ in range(repetitions):
        process = start(folder, name, workers)
        # From when the hidden folder is there: before it, Python itself is being loaded.
        while not (folder / ".out.building").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(moments.uniform(0, seconds / 2))
        last = interrupt(process)
        if moments.random() < 0.6:
            time.sleep(moments.uniform(0, 0.3))
            last = interrupt(process)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - last < 3
        assert process.returncode in (130, 0, -signal.SIGINT), errors
        assert "Traceback" not in errors
        assert errors.count("--resume") <= 1
        finish(start(folder, name, workers, "--resume"))
        assert digests(folder / "out") == expected
        assert sorted(path.name for path in folder.iterdir()) == ["out", "text.txt"]
        for path in (folder / "out").iterdir():
            path.unlink()


@pytest.mark.parametrize(("name", "workers"), [("build", 2), ("hash", 1)])
def test_interrupts_at_a_random_moment(text, tmp_path, name, workers):
    check(tmp_path, text[: len(text) // 4], name, workers, seed=1, repetitions=1)


def test_a_pipe_that_nobody_writes_to_keeps_no_one_waiting(tmp_path):
    words = [sys.executable, "-c", SCRIPT, "hash", "-", "-t", str(BPE)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, cwd=tmp_path, text=True, start_new_session=True, **pipes)
    assert "No -c" in process.stderr.readline()
    time.sleep(0.5)
    began = interrupt(process)
    process.wait(timeout=30)
    assert time.monotonic() - began < 3
    assert process.returncode == 130
    process.stdin.close()
    process.stderr.close()


def test_processes_are_started_whole_whichever_thread_gets_the_signal():
    ready = threading.Event()

    def receive():
        ready.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=receive)
    thread.start()
    is_started = False

    def start_processes():
        nonlocal is_started
        with _interrupts_blocked():
            ready.set()
            thread.join()
            is_started = True

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        start_processes()
    assert is_started
    assert signal.getsignal(signal.SIGINT) is handler
