"""Results of long work that can be resumed: a hidden folder beside them, with a journal.

The journal says how far each file is on the disk. It is written after every 256 MiB, so that work
that takes less leaves nothing when it is interrupted. The same chunks give the same bytes: resumed
files are those of a run that was not interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from engram.errors import DoesNotFitError, EngramError, InputError
from engram.storage import staging
from engram.storage.chunks import Chunk, Chunks, Hole, made_chunks
from engram.storage.direct_file import DirectFile
from engram.version import __version__

JOURNAL = "journal.jsonl"
SYNC_BYTES = 2**28
_READ_BYTES = 2**24
Step = Callable[[int], object]
Digest = Callable[[Chunk], object]


class Notes(Protocol):
    """Facts about chunks that are kept beside their bytes."""

    def take(self) -> list[Any]:
        """Return what is new since it was last asked, as JSON has it."""
        ...

    def restore(self, taken: list[Any]) -> None:
        """Take back what was taken in the run that is continued."""
        ...


@dataclass
class Place:
    """A hidden folder in which files of results are made, in order.

    Attributes:
        folder: The folder.
        journal: What was written is noted here, for a later run; None where there is none.
        notes: What is noted beside.
        done: Chunks and bytes of files that are on the disk, by name.
        is_whole: Whether all is written, so that an error is about the output's place alone.
    """

    folder: Path
    journal: Path | None = None
    notes: Notes | None = None
    done: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_whole: bool = False
    _written: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    _unsynced_bytes: int = field(default=0, init=False)

    @property
    def size_bytes(self) -> int:
        """Bytes that are on the disk."""
        return sum(size for _, size in self.done.values())

    def write(
        self,
        name: str,
        start: bytes,
        makers: Chunks,
        step: Step,
        digest: Digest | None = None,
    ) -> None:
        """Write a file, or continue it; while a chunk is written the next ones are made.

        Args:
            name: Its name.
            start: Its beginning, the same in every run.
            makers: Make the chunks that follow.
            step: Told the bytes of every chunk.
            digest: Takes every byte of the file, such as `update` of one of hashlib's.
        """
        chunks, size = self.done.get(name, (0, 0))
        path = self.folder / name
        if chunks and path.stat().st_size < size:
            chunks = 0  # what was noted is no longer there
        if chunks:
            os.truncate(path, size)
            _digest_stored(path, digest)
            step(size - len(start))
        else:
            size = len(start)
            path.unlink(missing_ok=True)  # nothing is written through a link
            path.write_bytes(start)
            if digest is not None:
                digest(start)
        makers = islice(makers, chunks, None)
        with DirectFile(path, size) as file, ThreadPoolExecutor(1) as beside:
            for chunk in made_chunks(makers):
                taken = None if digest is None else beside.submit(_digest, digest, chunk)
                before = file.place
                if isinstance(chunk, Hole):
                    file.skip(chunk.size_bytes)
                else:
                    file.write(chunk)
                written = file.place - before
                chunks, size = chunks + 1, file.place
                self._written[name] = chunks, size
                if taken is not None:
                    taken.result()
                step(written)
                self._unsynced_bytes += written
                if self._unsynced_bytes >= SYNC_BYTES and self.journal is not None:
                    file.flush()
                    self._sync()
            if self.journal is None:
                file.sync()

    def copy(self, name: str, size: int, place: Callable[[Path], object]) -> bool:
        """Have a whole file placed, unless it was before.

        Args:
            name: Its name.
            size: Its bytes; 0 for one that is linked.
            place: Places it.

        Returns:
            Whether it was placed now.
        """
        path = self.folder / name
        if name in self.done:
            return False
        path.unlink(missing_ok=True)
        place(path)
        self._written[name] = 1, size
        self._unsynced_bytes += size
        return True

    def _sync(self) -> None:
        """See everything that was written onto the disk, and note it."""
        assert self.journal is not None
        for name in self._written:
            staging.sync_path(self.folder / name)
        line = {"files": self._written, "notes": [] if self.notes is None else self.notes.take()}
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._written, self._unsynced_bytes = {}, 0


@contextmanager
def unfinished(
    target: Path,
    job: Mapping[str, Any],
    notes: Notes | None = None,
    *,
    resume: bool,
    overwrite: bool,
) -> Iterator[Place]:
    """Give a hidden folder for results, with what a run that was interrupted left in it.

    It goes when the block ends well, or fails with an error that would come again; the caller has
    moved the results out of it, see `move_in`.

    Args:
        target: The results: a file or a folder.
        job: Everything that determines the results, as JSON has it; only the same can be resumed.
        notes: See `Place`.
        resume: Continue a run that was interrupted.
        overwrite: Discard what such a run left.

    Raises:
        InputError: There is an unfinished run and neither was asked for, it was another job, or
            another process is at work.
        DoesNotFitError: The disk is full.
    """
    target = target.resolve()
    hidden = place_beside(target)
    before = check_unfinished(target, job, resume=resume, overwrite=overwrite)
    hidden.parent.mkdir(parents=True, exist_ok=True)
    with staging.telling_of(hidden, target):
        descriptor = staging.claim(hidden)
        if descriptor is None:
            raise _at_work(target)
        journal = hidden / JOURNAL
        place = Place(hidden / staging.NEW, journal, notes)
        try:
            staging.put_back(hidden, target)
            if before is None:
                staging.empty(hidden)
                place.folder.mkdir()
                journal.write_text(json.dumps(_stated(job)) + "\n", encoding="utf-8")
                before = []
            for line in before:
                place.done |= {
                    name: (chunks, size) for name, (chunks, size) in line["files"].items()
                }
                if notes is not None:
                    notes.restore(line["notes"])
            yield place
            staging.remove(hidden)
        except BaseException as error:
            again = isinstance(error, EngramError) and not isinstance(error, DoesNotFitError)
            if (again and not place.is_whole) or not _is_begun(hidden):
                with suppress(OSError):
                    staging.put_back(hidden, target)
                    staging.remove(hidden)
            raise
        finally:
            os.close(descriptor)


def move_in(place: Place, name: str | None, target: Path) -> None:
    """Move results to where they belong; what is there is replaced.

    Args:
        place: The hidden folder.
        name: The file that is the result; None for the folder itself.
        target: The results.
    """
    source = place.folder if name is None else place.folder / name
    hidden = place.folder.parent
    staging.sync_all(place.folder)
    (hidden / JOURNAL).unlink()  # a run that is killed from here on leaves nothing to continue
    if os.path.lexists(target):
        target.rename(hidden / staging.OLD)
    source.rename(target)
    staging.sync_path(target.parent)


def clean_unfinished(target: Path) -> None:
    """Remove what a run that was killed left for a target, where it cannot be continued."""
    target = target.resolve()
    if not can_be_continued(target):
        staging.clean_stage(place_beside(target), target)


def check_unfinished(
    target: Path, job: Mapping[str, Any], *, resume: bool, overwrite: bool
) -> Sequence[dict[str, Any]] | None:
    """Check that work for a target can begin; see `unfinished`.

    Returns:
        What the journal of a run that can be continued says, line by line; None to begin anew.

    Raises:
        InputError: See `unfinished`.
    """
    hidden = place_beside(target.resolve())
    if os.path.lexists(hidden) and not staging.is_stage(hidden):
        raise staging.in_the_way(hidden)
    if staging.in_use(hidden):
        raise _at_work(target)
    if not _is_begun(hidden) or (overwrite and not resume):
        return None
    if not resume:
        raise InputError(
            f"There is an unfinished run for {target} ({hidden.name} beside it).",
            "Continue with --resume, or start over with --overwrite.",
            output=str(target),
            work=str(hidden),
        )
    first, *lines = _lines(hidden)
    now = json.loads(json.dumps(_stated(job)))
    if first != now:
        differs = sorted(key for key in now if first.get(key) != now[key])
        raise InputError(
            f"The unfinished run for {target} was started with other {' and '.join(differs)}.",
            "Use the same options and inputs, or start over with --overwrite and without --resume.",
            output=str(target),
            differs=differs,
        )
    return lines


def _stated(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a journal begins with: versions may make other chunks."""
    return {**job, "version of the toolkit": __version__}


def described_files(paths: Collection[Path]) -> dict[str, list[int]]:
    """Describe inputs for a job: size and time of change of each, by path."""
    found = {str(path.resolve()): path.stat() for path in sorted(paths)}
    return {path: [status.st_size, status.st_mtime_ns] for path, status in found.items()}


def place_beside(target: Path) -> Path:
    """Return the hidden folder of a target's unfinished results."""
    return target.with_name(f".{target.name}.unfinished")


def can_be_continued(target: Path) -> bool:
    """Whether a run that was interrupted left results that another can continue."""
    hidden = place_beside(target.resolve())
    return staging.is_stage(hidden) and _is_begun(hidden)


def _is_begun(hidden: Path) -> bool:
    """Whether anything is noted, so that a run can be continued."""
    return len(_lines(hidden)) > 1


def _lines(hidden: Path) -> list[dict[str, Any]]:
    """Read the journal; a last line that was cut, and all after it, do not count."""
    lines: list[dict[str, Any]] = []
    try:
        content = (hidden / JOURNAL).read_text(encoding="utf-8")
        for line in content.splitlines():
            lines.append(json.loads(line))
    except (OSError, ValueError):
        pass
    return lines


def _at_work(target: Path) -> InputError:
    return InputError(
        f"Another process is writing {target}.", "Wait until it ends.", output=str(target)
    )


def _digest(digest: Digest, chunk: Chunk) -> None:
    for block in chunk.zeros() if isinstance(chunk, Hole) else (chunk,):
        digest(block)


def _digest_stored(path: Path, digest: Digest | None) -> None:
    """Digest a file from its start."""
    if digest is None:
        return
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest(block)
