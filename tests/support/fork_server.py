"""Runs `engram` or programs in forks of one process that has imported much: 0.1 s a run, not 5 s.

Reads one job a line from stdin (JSON, see `forks`) and answers each with one line. It
lives in mount and user namespaces of its own where the system allows that, so that jobs can have a
small disk.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink"} | {
    "os.truncate",
    "os.fsync",
}
_NEW_NAMESPACE = 0x00020000
_PRIVATE = 0x40000 | 0x4000  # of all mounts below


class Events:
    """Counts what a process does to the file system, and may kill it before the n-th thing."""

    def __init__(self, kill_at: int | None, lies: bool) -> None:
        self.count, self._kill_at = 0, kill_at
        sync = os.fsync

        def counted_sync(descriptor: int) -> None:
            self("os.fsync", ())
            sync(descriptor)

        os.fsync = counted_sync
        if lies:
            self._lie_about_room()
        sys.addaudithook(self)

    def __call__(self, event: str, details: Any) -> None:
        if event == "open":
            if not isinstance(details[2], int) or not details[2] & _WRITES:
                return
            if str(details[0]).startswith("/dev/"):
                return
        elif event not in _CHANGES:
            return
        self.count += 1
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def _lie_about_room() -> None:
        """Say that every disk has room, as one does that fills up after it was asked."""
        import shutil
        from types import SimpleNamespace

        shutil.disk_usage = lambda path: SimpleNamespace(total=2**50, used=0, free=2**50)


def _run(job: dict[str, Any], report: Path) -> None:
    """Run a command in this process, which is a fork, and end it."""
    os.setsid()
    os.chdir(job["cwd"])
    for stream, number in (("stdout", 1), ("stderr", 2)):
        target = os.open(f"{report}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(target, number)
    if job["terminal"] is not None:
        stream, device = job["terminal"]
        os.dup2(os.open(device, os.O_RDWR | os.O_NOCTTY), 1 if stream == "stdout" else 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    os.environ.update(job["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if job["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"], resource.RLIM_INFINITY))
    events = Events(job["kill_at"], job["lies"])
    code: Any = 70
    try:
        if job["is_program"]:
            _run_program(job["words"][0])
        _run_command(job["words"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # the command line is to turn everything into an exit code
        import traceback

        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    counted = os.open(f"{report}.events", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    if job["file_bytes"] is None:
        os.write(counted, str(events.count).encode())
    os._exit(code)


def _run_command(words: list[str]) -> None:
    from engram_cli.main import main

    sys.argv = ["engram", *words]
    main()


def _run_program(text: str) -> None:
    """Run a program that uses the library; its errors end it as they would end a command."""
    try:
        exec(text, {})
    except Exception as error:
        from engram.errors import EngramError  # which a program may be the first to import

        if not isinstance(error, EngramError):
            raise
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(0)


def _serve(job: dict[str, Any]) -> dict[str, Any]:
    report = Path(job["report"])
    for name in ("stdout", "stderr", "events"):
        Path(f"{report}.{name}").write_bytes(b"")
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            _run(job, report)
        except KeyboardInterrupt:  # before the command has begun, or after its end
            os._exit(130)
        finally:
            os._exit(71)
    handle = os.pidfd_open(child)
    ended, signals, killed = False, list(job["signals"]), False
    while not ended:
        passed = time.monotonic() - started
        if signals and passed >= signals[0][0]:
            with suppress(ProcessLookupError):
                number = signals.pop(0)[1]
                # A terminal sends its interrupt to every process of the command.
                os.killpg(child, number) if number == signal.SIGINT else os.kill(child, number)
        if passed >= job["limit_s"]:
            os.killpg(child, signal.SIGKILL)
            killed = True
        left = min([job["limit_s"], *(at for at, _ in signals[:1])]) - (time.monotonic() - started)
        ended = bool(select.select([handle], [], [], max(left, 0.0))[0])
        if killed:
            break
    os.close(handle)
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - started
    orphans = _outlived(child)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "peak_bytes": usage.ru_maxrss * 1024,
        "timed_out": killed,
        "orphans": orphans,
    }


def _outlived(group: int) -> bool:
    """Whether processes of a command are still there ten seconds after it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    return True


def _own_mounts() -> bool:
    """Move to a mount namespace of this process's own; False where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        is_own = libc.unshare(_NEW_NAMESPACE) == 0
    except AttributeError:
        return False
    return is_own and libc.mount(b"none", b"/", None, _PRIVATE, None) == 0


def _disk(job: dict[str, Any]) -> dict[str, Any]:
    """Give a folder a disk of its own, change its size, or take it away."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder, size_kib = os.fsencode(job["disk"]), job["kib"]
    if size_kib is None:
        failed = libc.umount2(folder, 2)
    else:
        remount = 32 if job["there"] else 0
        options = f"size={size_kib}k,mode=700".encode()
        failed = libc.mount(b"none", folder, b"tmpfs", remount, options)
    return {"failed": ctypes.get_errno() if failed else 0}


def _make_units_small() -> None:
    """Let a text of 250 kB be many units of work, as one of gigabytes is."""
    from engram.corpus.building import units

    units.UNIT_BYTES = 30_000  # before the modules that copy it are imported


def _warm_up(words: list[str]) -> None:
    """Run a command here, so that the forks find compiled what it compiles."""
    try:
        _run_command(words)
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{words} ended with {end.code}") from end


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    has_mounts = _own_mounts()
    import importlib

    modules = json.loads(sys.argv[1])
    if any(name.startswith("engram") for name in modules):
        _make_units_small()
    for name in modules:
        importlib.import_module(name)
    for words in json.loads(sys.argv[2]):
        _warm_up(words)
    print(json.dumps({"mounts": has_mounts}), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        answer = _disk(job) if "disk" in job else _serve(job)
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # to take apart what was imported takes seconds


if __name__ == "__main__":
    main()
