"""The hidden folder where results that are not finished keep what is done, to go on from there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engram.corpus.results.manifests import DIGESTS_SHAPE, JOB_SHAPE
from engram.errors import InputError
from engram.storage import staging
from engram.storage.files import are_as_digested, sha256_of, write_json
from engram.storage.json_files import find_json

_JOB = "job.json"
# Digests of files of the results, noted before the results appear.
_ASSEMBLED = "assembled.sha256"
# Where a run writes what is not finished; only the process that holds the lock moves it from there.
ATTEMPT = "attempt-"
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
        DoesNotFitError: The disk is full.
    """
    check_work(folder, job, resume, overwrite)
    work = work_folder(folder)
    with staging.telling_of(work, folder):
        work.parent.mkdir(parents=True, exist_ok=True)
        with _claimed(work, folder):
            if not (resume and _is_begun(work)):
                # A kill in between leaves units without a job, which count for nothing.
                (work / _JOB).unlink(missing_ok=True)
                staging.empty(work)
            try:
                _drop_parts(work)
                write_json(work / _JOB, job)
                yield work
            except BaseException:
                if not _is_begun(work):
                    with suppress(OSError):
                        staging.remove(work)
                raise
            _remove(work)


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
    if not os.path.lexists(work):
        return
    if not staging.is_stage(work):
        raise staging.in_the_way(work)
    if staging.in_use(work):
        raise _at_work(folder)
    if not _is_begun(work):
        return
    if not resume and not overwrite:
        raise InputError(
            f"There is an unfinished build of {folder} ({work.name} beside it).",
            "Go on with --resume, or start over with --overwrite.",
            output=str(folder),
            work=str(work),
        )
    before = find_json(work / _JOB, JOB_SHAPE, file_names=True)
    if before is None:
        raise InputError(
            f"{work / _JOB} is damaged: it cannot be told what the unfinished build of {folder} "
            "began with.",
            "Start over with --overwrite and without --resume.",
            output=str(folder),
            work=str(work),
        )
    if job is not None and resume and (differs := _differences(before, job)):
        words = "; ".join(_difference(key, before.get(key), job[key]) for key in differs)
        raise InputError(
            f"The unfinished build of {folder} began with {words}.",
            "Give what it began with, or start over with --overwrite and without --resume.",
            output=str(folder),
            differs=differs,
        )


def is_resumable(folder: Path) -> bool:
    """Whether an unfinished build of a folder has something done."""
    work = work_folder(folder)
    return staging.is_stage(work) and _is_begun(work)


def discard(folder: Path) -> None:
    """Remove what is left of a build that was killed when its folder was there already."""
    work = work_folder(folder)
    if os.path.lexists(work) and staging.is_stage(work):
        with _claimed(work, folder):
            _remove(work)


def drop_done(work: Path) -> None:
    """Count nothing in the hidden folder of a build as done, so that it goes with the build."""
    (work / _JOB).unlink()


def note_assembled(work: Path, file: Path) -> None:
    """Note that results are whole, before they appear.

    Args:
        work: The hidden folder of their build.
        file: A file by which they are known again, such as their manifest.
    """
    write_json(work / _ASSEMBLED, {file.name: sha256_of(file)})


def discard_spent(folder: Path) -> None:
    """Remove the hidden folder of a build that was killed with nothing done, or all.

    All is done when the results have appeared.
    """
    work = work_folder(folder)
    is_left = os.path.lexists(work) and staging.is_stage(work) and not staging.in_use(work)
    if is_left and (not _is_begun(work) or _has_appeared(work, folder)):
        discard(folder)


def _has_appeared(work: Path, folder: Path) -> bool:
    """Whether the results that were noted as whole are there."""
    noted = find_json(work / _ASSEMBLED, DIGESTS_SHAPE)
    return noted is not None and are_as_digested(folder, noted)


def _remove(work: Path) -> None:
    """Remove the hidden folder of results that are there; after a kill it is known as such."""
    for entry in work.iterdir():
        if entry.name not in (_ASSEMBLED, staging.MARK):
            staging.remove_entry(entry)
    staging.remove(work)


def _drop_parts(work: Path) -> None:
    """Remove files that were not finished when a process ended."""
    for entry in [*work.rglob("*.part"), *work.rglob(f"{ATTEMPT}*")]:
        if os.path.lexists(entry):
            staging.remove_entry(entry)


def _is_begun(work: Path) -> bool:
    """Whether something is done, which says so in a .json of its own."""
    done = (file for file in work.rglob("*.json") if not file.parent.name.startswith(ATTEMPT))
    return (work / _JOB).is_file() and any(file.name != _JOB for file in done)


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


@contextmanager
def _claimed(work: Path, folder: Path) -> Iterator[None]:
    """Keep a second build away; the lock goes with the process, however it ends."""
    descriptor = staging.claim(work)
    if descriptor is None:
        raise _at_work(folder)
    try:
        yield
    finally:
        os.close(descriptor)


def _at_work(folder: Path) -> InputError:
    return InputError(f"Another process is building {folder}.", "Wait for it.", output=str(folder))
