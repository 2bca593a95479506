"""The command line as tests run it: in this process, or in one of its own."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import pytest

from support.forks import Forks

# No colours, and no text that is folded where an assertion looks for it.
TERMINAL = {"TERM": "dumb", "COLUMNS": "200"}


class Result(NamedTuple):
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str

    def ended(self, code: int = 0) -> Result:
        """Compare the exit code; return the same."""
        assert self.code == code, self.stderr
        return self

    def json(self, code: int = 0) -> Any:
        """The one line of JSON that it printed."""
        assert self.ended(code).stdout.count("\n") == 1
        answer = json.loads(self.stdout)
        assert next(iter(answer)) == "schema"
        return answer

    def error(self, code: int) -> Any:
        """The JSON line on stderr of a command that failed and printed nothing."""
        assert self.ended(code).stdout == ""
        failure = json.loads(self.stderr.splitlines()[-1])
        assert failure["schema"] == "engram.error/1"
        return failure


def run(*words: object, columns: int = 200) -> Result:
    """Run a command in this process.

    Args:
        words: Of the command, without `engram`.
        columns: Width of the terminal.
    """
    from engram_cli.main import app

    streams = [
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="", write_through=True)
        for _ in range(2)
    ]
    with (
        patch.dict(os.environ, {**TERMINAL, "COLUMNS": str(columns)}),
        redirect_stdout(streams[0]),
        redirect_stderr(streams[1]),
        pytest.raises(SystemExit) as end,
    ):
        app([str(word) for word in words])
    return Result(end.value.code, *(stream.buffer.getvalue().decode() for stream in streams))


def command(*words: object) -> list[str]:
    """Words that start a command in a process of its own."""
    return [sys.executable, "-m", "engram_cli", *map(str, words)]


def run_apart(
    *words: object,
    before: str = "",
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120,
    preexec_fn: Callable[[], object] | None = None,
) -> Result:
    """Run a command in a process of its own.

    Args:
        words: Of the command, without `engram`.
        before: Python that the process runs first.
        cwd: The folder that it runs in.
        environment: More of its environment.
        timeout: Seconds that it may take.
        preexec_fn: Called in the process before it runs anything.
    """
    start = command(*words)
    if before:
        code = f"{before}\nfrom engram_cli.main import main\nmain()\n"
        start = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(
        start,
        cwd=cwd,
        env={**os.environ, **TERMINAL, **(environment or {})},
        timeout=timeout,
        preexec_fn=preexec_fn,
        capture_output=True,
        text=True,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


_TELL = """
import atexit, sys
atexit.register(lambda: print("\\n===", *sys.modules, file=sys.stderr))
"""


def imported_by(*words: object, **options: Any) -> tuple[Result, set[str]]:
    """Run a command in a process of its own; also return the modules that it has imported."""
    done = run_apart(*words, before=_TELL, **options)
    said, _, modules = done.stderr.rpartition("\n===")
    return done._replace(stderr=said), set(modules.split())


def on_a_terminal(
    *words: object,
    stream: Literal["stdout", "stderr"] = "stdout",
    forks: Forks | None = None,
    **environment: str,
) -> str:
    """What a command that ends well writes to a stream that is a terminal.

    Args:
        words: Of the command, without `engram`.
        stream: The stream; the other one is dropped.
        forks: Runs it, for a command that imports torch; without it a new process does.
        environment: Variables of the process, beside those of this one or of the forks.
    """
    ours, theirs = pty.openpty()
    parts: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(ours, parts))
    reader.start()
    environment = {"TERM": "xterm-256color", **environment}
    try:
        if forks is not None:
            terminal = (stream, os.ttyname(theirs))
            code = forks.run(words, Path.cwd(), terminal=terminal, env=environment).code
        else:
            streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: theirs}
            code = subprocess.run(
                command(*words),
                env={**os.environ, **environment},
                timeout=120,
                check=False,
                **streams,
            ).returncode
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    assert code == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


def _read_all(terminal: int, parts: list[bytes]) -> None:
    try:
        while part := os.read(terminal, 2**16):
            parts.append(part)
    except OSError:  # so ends a terminal, on Linux
        pass
