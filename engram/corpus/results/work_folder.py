"""The hidden folder for unfinished results, from which a build can be resumed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engram.corpus.results.manifests import DIGESTS_SHAPE, JOB_SHAPE
from engram.errors import InputError
from engram.storage import staging
from engram.storage.files import are_as_digested, write_json
from engram.storage.json_files import find_json

_JOB = "job.json"
# Digests of the results' files, written before the results appear.
ASSEMBLED = "assembled.sha256"
# Folder for unfinished files of a run; only the process with the lock moves files from it.
ATTEMPT = "attempt-"
# Words for a job's keys in messages, where they differ from the keys.
_NAMES = {"shard_tokens": "shard size", "add_eos": "end-of-text tokens"}


def work_folder(folder: Path) -> Path:
    """Return the hidden folder of an unfinished build."""
    folder = folder.resolve()
    return folder.parent / f".{folder.name}.building"


@contextmanager
def working(folder: Path, job: dict[str, Any], resume: bool) -> Iterator[Path]:
    """Provide the hidden folder of a build; it is removed when all or nothing is done.

    See `check_work` for the check that comes first.

    Args:
        folder: The folder to build.
        job: Everything that determines the results; only the same job can be resumed.
        resume: Whether to continue an unfinished build.

    Yields:
        The hidden folder, with the finished units of earlier runs.

    Raises:
        InputError: Another process is building.
        DoesNotFitError: The disk is full.
    """
    work = work_folder(folder)
    with staging.telling_of(work, folder):
        work.parent.mkdir(parents=True, exist_ok=True)
        with _claimed(work, folder):
            if not (resume and _is_begun(work)):
                # A kill in between leaves units without a job, which are ignored.
                (work / _JOB).unlink(missing_ok=True)
                staging.empty(work)
            try:
                # Files that a process left unfinished.
                for entry in [*work.rglob("*.part"), *work.rglob(f"{ATTEMPT}*")]:
                    if os.path.lexists(entry):
                        staging.remove_entry(entry)
                write_json(work / _JOB, job)
                yield work
            except BaseException:
                if not _is_begun(work):
                    with suppress(OSError):
                        staging.remove(work)
                raise
            _remove(work)


def check_work(folder: Path, job: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Check that a build of a folder can start; nothing is written.

    Args:
        folder: The folder to build.
        job: Everything that determines the results, to compare with that of a build to resume.
        resume: Whether to continue an unfinished build.
        overwrite: Whether an unfinished build may be discarded.

    Raises:
        InputError: An unfinished build exists, the job differs, or another process is building.
    """
    work = work_folder(folder)
    if os.path.lexists(work) and not staging.is_stage(work):
        raise staging.in_the_way(work)
    if staging.in_use(work):
        raise _at_work(folder)
    if not _is_begun(work) or (overwrite and not resume):
        return
    if not resume:
        raise InputError(
            f"There is an unfinished build of {folder} ({work.name} beside it).",
            "Continue with --resume, or start over with --overwrite.",
            output=str(folder),
            work=str(work),
        )
    before = find_json(work / _JOB, JOB_SHAPE, file_names=True)
    if before is None:
        raise InputError(
            f"{work / _JOB} is damaged: it does not tell how the unfinished build of {folder} "
            "began.",
            "Start over with --overwrite and without --resume.",
            output=str(folder),
            work=str(work),
        )
    if differs := _differences(before, job):
        words = "; ".join(_difference(key, before.get(key), job[key]) for key in differs)
        raise InputError(
            f"The unfinished build of {folder} was started with {words}.",
            "Use the same options and inputs, or start over with --overwrite and without --resume.",
            output=str(folder),
            differs=differs,
        )


def is_resumable(folder: Path) -> bool:
    """Whether an unfinished build of a folder has finished units."""
    work = work_folder(folder)
    return staging.is_stage(work) and _is_begun(work)


def discard(folder: Path) -> None:
    """Remove the remains of a build that was killed after its folder appeared."""
    work = work_folder(folder)
    if staging.is_stage(work):
        with _claimed(work, folder):
            _remove(work)


def drop_done(work: Path) -> None:
    """Mark nothing in the hidden folder as done, so that it is removed with the build."""
    (work / _JOB).unlink()


def discard_spent(folder: Path) -> None:
    """Remove the hidden folder of a killed build that has finished nothing, or everything.

    Everything is finished when the results have appeared.
    """
    work = work_folder(folder)
    if staging.is_stage(work) and not staging.in_use(work):
        noted = find_json(work / ASSEMBLED, DIGESTS_SHAPE)
        if not _is_begun(work) or (noted is not None and are_as_digested(folder, noted)):
            discard(folder)


def _remove(work: Path) -> None:
    """Remove the hidden folder of existing results, in an order that a kill cannot confuse."""
    for entry in work.iterdir():
        if entry.name not in (ASSEMBLED, staging.MARK):
            staging.remove_entry(entry)
    staging.remove(work)


def _is_begun(work: Path) -> bool:
    """Whether any unit is finished, which its own .json shows."""
    done = (file for file in work.rglob("*.json") if not file.parent.name.startswith(ATTEMPT))
    return (work / _JOB).is_file() and any(file.name != _JOB for file in done)


def _differences(before: dict[str, Any], job: dict[str, Any]) -> list[str]:
    """Return the keys in which a job differs from the one that began, if units depend on them."""
    differs = [key for key in job if before.get(key) != job[key]]
    # A unit that was finished without an error has none to skip.
    if "on_error" in differs and before.get("on_error") == "stop":
        differs.remove("on_error")
    # Without an end of documents, it is none of the tokenizer's either.
    if "add_eos" in differs and "tokenizer" in differs:
        other = {**(before.get("tokenizer") or {}), "eos_id": None}
        if other == {**job["tokenizer"], "eos_id": None}:
            differs.remove("tokenizer")
    return differs


def _difference(key: str, before: Any, now: Any) -> str:
    """Describe in which way a job differs from the one that began."""
    if key == "inputs":
        files = {file["name"]: file for file in before or ()}
        changed = [file["name"] for file in now if files.get(file["name"], file) != file]
        return f"other inputs ({changed[0]} has changed since)" if changed else "other inputs"
    if isinstance(now, dict):
        before, now = (before or {}).get("name"), now["name"]
        if before == now:
            return f"another {key} with the name {now}"
    name = _NAMES.get(key, key.replace("_", " "))
    return f"{name} {_value(before)}, not {_value(now)}"


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "yes" if value else "no" if value is False else "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


@contextmanager
def _claimed(work: Path, folder: Path) -> Iterator[None]:
    """Lock out a second build; the lock is released when the process ends in any way."""
    descriptor = staging.claim(work)
    if descriptor is None:
        raise _at_work(folder)
    with os.fdopen(descriptor):
        yield


def _at_work(folder: Path) -> InputError:
    return InputError(
        f"Another process is building {folder}.", "Wait until it ends.", output=str(folder)
    )
