"""`HubFile`: a file on the Hugging Face hub, read by ranges; see `engram.storage.gguf_walk.Source`.

Ranges that were read are kept, since headers and constants are looked at more than once; rows are
not.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from engram.storage import hub

_MOST_KEPT_BYTES = 2**26
# Each request takes a round trip, however short the answer.
_AT_A_TIME = 16


@dataclass
class _Stretch:
    """Bytes of a file that follow each other.

    Attributes:
        start: Byte of the file at which they start.
        content: The bytes.
    """

    start: int
    content: bytearray = field(default_factory=bytearray)

    @property
    def stop(self) -> int:
        """Byte after the last one."""
        return self.start + len(self.content)


@dataclass(frozen=True)
class HubFile:
    """A file on the hub.

    Attributes:
        name: Id of the repository.
        file: The file in it.
        revision: The commit, or the branch or tag where the hub did not state the commit.
        size: Its size in bytes.
    """

    name: str
    file: str
    revision: str | None
    size: int
    _kept: list[_Stretch] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def at(cls, name: str, file: str, revision: str | None) -> "HubFile":
        """Look at a file.

        Args:
            name: Id of the repository.
            file: The file in it.
            revision: Branch, tag or commit; the newest when None.

        Raises:
            MissingFileError: It is not there, may not be seen, or cannot be reached.
        """
        try:
            size, commit = hub.size_of(name, file, revision)
        except Exception as error:  # versions of the client differ in their exceptions
            raise hub.not_had(
                error,
                name,
                file,
                revision,
                folder="a file or folder here",
                absent="Check the name of the file on its hub page.",
                model=name,
            ) from None
        return cls(name, file, commit or revision, size)

    @property
    def path(self) -> Path:
        """See `Source`: the repository and the file."""
        return Path(self.name) / self.file

    @property
    def window_bytes(self) -> tuple[int, int]:
        """See `Source`: a round trip costs as much as some hundred kilobytes."""
        return 2**17, 2**22

    def read(self, offset: int, count: int) -> bytes:
        """See `Source`; what was read before is not asked for again.

        Raises:
            MissingFileError: The hub no longer gives it.
            CorruptFileError: See `engram.storage.hub.read_range`.
        """
        stop = min(offset + count, self.size)
        if offset >= stop:
            return b""
        around = (it for it in reversed(self._kept) if it.start <= offset <= it.stop)
        stretch = next(around, None)
        if stretch is None:
            if sum(len(it.content) for it in self._kept) > _MOST_KEPT_BYTES:
                self._kept.clear()
            stretch = _Stretch(offset)
            self._kept.append(stretch)
        if stretch.stop < stop:
            stretch.content += self._fetch(stretch.stop, stop)
        return bytes(stretch.content[offset - stretch.start : stop - stretch.start])

    def read_each(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Source`; several are asked for at a time.

        Raises:
            MissingFileError: The hub no longer gives it.
            CorruptFileError: See `engram.storage.hub.read_range`.
        """
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            return list(pool.map(lambda it: self._fetch(it[0], it[0] + it[1]), places))

    def _fetch(self, first: int, stop: int) -> bytes:
        if first >= (stop := min(stop, self.size)):
            return b""
        with hub.naming_failures(self.name, self.revision):
            return hub.read_range(self.name, self.file, self.revision, first, stop, self.size)
