"""`Forks`: runs commands in forks of one process, with kills, signals, limits and small disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERVER = Path(__file__).with_name("fork_server.py")
# What the toolkit stands on, without the toolkit.
WITHOUT_THE_TOOLKIT = (
    *("torch", "torch._dynamo", "transformers", "tokenizers", "numba", "accelerate", "peft"),
    *("transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto"),
    *("transformers.models.auto.tokenization_auto", "transformers.generation"),
)
_EVERYTHING = (
    *WITHOUT_THE_TOOLKIT,
    *("pyarrow.parquet", "sympy", "rich.table"),
    *("engram.hf", "engram.checkpoints", "engram.addressing.kernel", "engram_cli.main"),
    *("engram_cli.attach", "engram_cli.convert", "engram_cli.corpus", "engram_cli.hash"),
    *("engram_cli.train", "engram.training.train_memory", "engram.training.trainer"),
    *("engram_cli.verify", "engram_cli.report", "engram_cli.size", "engram_cli.config"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "engram.pictures"),
)


@dataclass(frozen=True)
class Outcome:
    """What a run came to: its exit code, or the negative number of the signal that ended it."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_bytes: int
    timed_out: bool
    orphans: bool
    events: int | None


class Forks:
    """A process to fork from.

    Args:
        warm_up: Words of commands that it runs itself first.
        environment: More of its environment, which modules read when they are imported.
        modules: The modules that it has imported.

    Attributes:
        mounts: Whether `disk` works here.
    """

    def __init__(
        self,
        warm_up: Sequence[Sequence[str]] = (),
        environment: Mapping[str, str] | None = None,
        modules: Sequence[str] = _EVERYTHING,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="engram-forks-")
        whole = {
            **os.environ,
            **{"OMP_NUM_THREADS": "1", "TERM": "dumb", "COLUMNS": "200"},
            "ENGRAM_CACHE": f"{self._folder.name}/cache",
            **(environment or {}),
        }
        self._process = subprocess.Popen(
            [sys.executable, str(_SERVER), json.dumps(modules), json.dumps(warm_up)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=whole,
        )
        self.mounts: bool = self._answer()["mounts"]

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def run(
        self,
        words: Sequence[str],
        cwd: Path,
        *,
        is_program: bool = False,
        kill_at: int | None = None,
        signals: Sequence[tuple[float, int]] = (),
        limit_s: float = 60,
        file_bytes: int | None = None,
        lies: bool = False,
        terminal: tuple[str, str] | None = None,
        env: dict[str, str] | None = None,
    ) -> Outcome:
        """Run `engram` with these words.

        Args:
            words: The command's words.
            cwd: Its folder.
            is_program: Whether the one word is a program that uses the library instead; what it
                raises of ours ends it with the exit code that a command has.
            kill_at: Kill it before its n-th change of the file system, from 1.
            signals: Seconds after the start, and the number of the signal then sent; an interrupt
                goes to all its processes.
            limit_s: Seconds after which it is killed as hanging.
            file_bytes: Bytes that no file may have more of.
            lies: Whether the system says that the disk has room, whatever it has.
            terminal: The stream, stdout or stderr, that is a terminal, and the terminal's device.
            env: More of the environment.
        """
        report = Path(self._folder.name) / "run"
        answer = self._ask(
            words=[str(word) for word in words],
            cwd=str(cwd),
            is_program=is_program,
            kill_at=kill_at,
            signals=[[seconds, int(number)] for seconds, number in signals],
            limit_s=limit_s,
            file_bytes=file_bytes,
            lies=lies,
            terminal=terminal,
            env=env or {},
            report=str(report),
        )
        stdout, stderr = (
            Path(f"{report}.{name}").read_bytes().decode(errors="surrogateescape")
            for name in ("stdout", "stderr")
        )
        counted = Path(f"{report}.events")
        count = counted.read_text() if answer["code"] >= 0 else ""
        return Outcome(stdout=stdout, stderr=stderr, events=int(count) if count else None, **answer)

    @contextmanager
    def disk(self, folder: Path, kib: int) -> Iterator[Disk]:
        """Put a disk of a size at a folder while the block runs; for `run` alone."""
        self._ask(disk=str(folder), kib=kib, there=False)
        try:
            yield Disk(self, folder)
        finally:
            self._ask(disk=str(folder), kib=None, there=True)

    def seen(self, path: Path) -> Path:
        """The path under which this process sees what the forks see at one."""
        return Path(f"/proc/{self._process.pid}/root{path}")

    def _ask(self, **job: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if answer.get("failed"):
            raise OSError(answer["failed"], os.strerror(answer["failed"]), str(job))
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process to fork from has ended"
        return json.loads(line)


@dataclass(frozen=True)
class Disk:
    """A small disk at a folder."""

    forks: Forks
    folder: Path

    def resize(self, kib: int) -> None:
        self.forks._ask(disk=str(self.folder), kib=kib, there=True)


KILL = signal.SIGKILL
INTERRUPT = signal.SIGINT
