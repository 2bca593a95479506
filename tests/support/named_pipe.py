"""A text that whoever reads it has to wait for, so that it can be killed while it waits."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from engram.corpus.text.sources import Source


class NamedPipe:
    """A named pipe as a source of text."""

    def __init__(self, path: Path, text: str) -> None:
        os.mkfifo(path)
        self.path, self.text = path, text
        self.source = Source(str(path), path)

    def feed(self) -> None:
        """Wait for a reader, and give it the text."""
        self.path.write_bytes(self.text.encode())

    def kill_reader(self) -> int:
        """Wait for a process that waits for the text, and kill it."""
        while True:
            try:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError:
                time.sleep(0.02)
        while not (readers := self._readers()):
            time.sleep(0.02)
        (reader,) = readers
        # Stopped, so that it does not see the end of the pipe that the next reader must not see.
        os.kill(reader, signal.SIGSTOP)
        os.close(descriptor)
        os.kill(reader, signal.SIGKILL)
        # Until its last thread has ended the pipe has a reader.
        while not _is_over(reader):
            time.sleep(0.02)
        return reader

    def _readers(self) -> list[int]:
        """Other processes that have the pipe open."""
        found = []
        for folder in Path("/proc").glob("[0-9]*/fd"):
            try:
                files = [os.path.realpath(file) for file in folder.iterdir()]
            except OSError:
                continue
            if str(self.path) in files and folder.parent.name != str(os.getpid()):
                found.append(int(folder.parent.name))
        return found


def _is_over(pid: int) -> bool:
    process = Path(f"/proc/{pid}")
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z" and len(list((process / "task").iterdir())) == 1
    except OSError:
        return True
