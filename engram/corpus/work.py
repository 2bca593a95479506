"""The hidden folder where results that are not finished keep what is done, to go on from there."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engram.corpus.manifests import JOB_SHAPE
from engram.errors import EngramError, InputError
from engram.files import NO_ROOM, write_json
from engram.json_files import read_json

_JOB = "job.json"
# How people call what a job's keys hold, where that is not their name.
_NAMES = {"shard_tokens": "shard size", "add_eos": "end-of-text tokens"}


def work_folder(folder: Path) -> Path:
    """Where an unfinished build of a folder keeps what it has done."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.building")


@contextmanager
def working(folder: Path, job: dict[str, Any], resume: bool, overwrite: bool) -> Iterator[Path]:
    """Give the hidden folder of a build; it goes when the build is done, or has nothing done.

    Args:
        folder: The folder that is built.
        job: What the results follow from; they are resumed only with the same.
        resume: Whether to go on with what is there.
        overwrite: Whether what is there may be thrown away.

    Yields:
        The hidden folder, with whatever was done before.

    Raises:
        InputError: Something is in the way, the job differs, or another process is at work.
    """
    check_work(folder, job, resume, overwrite)
    work = work_folder(folder)
    work.mkdir(parents=True, exist_ok=True)
    with _lock(work, folder):
        try:
            _clean(work, keep_done=resume)
            write_json(work / _JOB, job)
            yield work
        except BaseException as error:
            # What is done says so in a .json of its own.
            if all(file.name == _JOB for file in work.rglob("*.json")):
                shutil.rmtree(work, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                error.filename = str(folder)  # the name that the user knows
            raise
        shutil.rmtree(work)


def check_work(folder: Path, job: dict[str, Any] | None, resume: bool, overwrite: bool) -> None:
    """Check that a build of a folder may begin; nothing is written.

    Args:
        folder: The folder that is built.
        job: What the results follow from; None leaves out whether that is what they began with.
        resume: Whether to go on with what is there.
        overwrite: Whether what is there may be thrown away.

    Raises:
        InputError: What `working` raises.
    """
    work = work_folder(folder)
    before = _read_job(work)
    if work.exists() and before is None and any(work.iterdir()):
        raise InputError(
            f"{work} is in the way and was not written by this command.",
            "Move it away, or choose another folder.",
            output=str(folder),
            work=str(work),
        )
    if before is not None:
        with _lock(work, folder):
            pass
    if before is not None and not resume and not overwrite:
        raise InputError(
            f"There is an unfinished build of {folder} ({work.name} beside it).",
            "Go on with --resume, or start over with --overwrite.",
            output=str(folder),
            work=str(work),
        )
    if before is not None and job is not None and resume:
        differs = _differences(before, job)
        if differs:
            words = "; ".join(_difference(key, before.get(key), job[key]) for key in differs)
            raise InputError(
                f"The unfinished build of {folder} began with {words}.",
                "Give what it began with, or start over with --overwrite and without --resume.",
                output=str(folder),
                differs=differs,
            )


def discard(folder: Path) -> None:
    """Remove what is left of a build that was killed when its folder was there already."""
    work = work_folder(folder)
    if _read_job(work) is not None:
        with _lock(work, folder):
            shutil.rmtree(work)


def _clean(work: Path, *, keep_done: bool) -> None:
    for entry in list(work.rglob("*.part")) if keep_done else list(work.iterdir()):
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _JOB:
            entry.unlink()


def _differences(before: dict[str, Any], job: dict[str, Any]) -> list[str]:
    """Names of what the units that are done do not follow from any more."""
    differs = [key for key in job if before.get(key) != job[key]]
    # A unit that was done without an error to stop at has none to skip.
    if "on_error" in differs and before.get("on_error") == "stop":
        differs.remove("on_error")
    # Without an end of documents, it is none of the tokenizer's either.
    if "add_eos" in differs and "tokenizer" in differs:
        both = (before.get("tokenizer"), job["tokenizer"])
        first, second = ({**(one or {}), "eos_id": None} for one in both)
        if first == second:
            differs.remove("tokenizer")
    return differs


def _difference(key: str, before: Any, now: Any) -> str:
    """Say what a build began with, and what is given now."""
    if key == "inputs":
        files = {file["name"]: file for file in before or ()}
        changed = [file["name"] for file in now if files.get(file["name"], file) != file]
        return f"other inputs ({changed[0]} has changed since)" if changed else "other inputs"
    if isinstance(now, dict):
        before, now = (before or {}).get("name"), now["name"]
        if before == now:
            return f"another {key} of the name {now}"
    name = _NAMES.get(key, key.replace("_", " "))
    return f"{name} {_value(before)}, not {_value(now)}"


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "yes" if value else "no" if value is False else "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _read_job(work: Path) -> dict[str, Any] | None:
    try:
        job: dict[str, Any] = read_json(work / _JOB, JOB_SHAPE, file_names=True)
    except (OSError, EngramError):
        return None
    return job


@contextmanager
def _lock(work: Path, folder: Path) -> Iterator[None]:
    """Keep a second build away; the lock goes with the process, however it ends."""
    descriptor = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Another process is building {folder}.", "Wait for it.", output=str(folder)
            ) from None
        yield
    finally:
        os.close(descriptor)
