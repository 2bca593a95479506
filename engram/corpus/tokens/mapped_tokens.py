"""`MappedTokens`: the tokens of a corpus in shards that are mapped, never loaded as a whole."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.corpus.tokens.tokenise import TokenBatch, cut_batches
from engram.errors import CorruptFileError


@dataclass(frozen=True, eq=False)
class TokenShard:
    """Whole documents of a corpus.

    Attributes:
        name: Its file, in messages.
        tokens: Token ids ``[n]``, mapped.
        bounds: First token of every document and, last, n: ``[documents + 1]``.
    """

    name: str
    tokens: NDArray[Any]
    bounds: NDArray[Any]

    def __post_init__(self) -> None:
        places = (_place_of(self.tokens), _place_of(self.bounds))
        object.__setattr__(self, "_places", places)
        # As plain arrays: numpy's memmap takes several times as long to cut out a few tokens.
        for key in ("tokens", "bounds"):
            object.__setattr__(self, key, np.asarray(getattr(self, key)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle mapped arrays as their places in files: a worker maps them, and gets no copy."""
        return _shard_of, (self.name, *vars(self)["_places"])


class MappedTokens:
    """The tokens of a corpus, read where they are needed.

    Args:
        folder: The corpus, in messages.
        shards: Its shards, in order.

    Attributes:
        n_tokens: Tokens of all shards.
        sha256: Digest of tokens and documents, or of what determines them.
    """

    sha256: str

    def __init__(self, folder: Path, shards: Sequence[TokenShard]) -> None:
        self.folder = folder
        self._shards = list(shards)
        lengths = [0, *(len(shard.tokens) for shard in self._shards)]
        self._firsts: NDArray[np.int64] = np.cumsum(lengths, dtype=np.int64)
        self.n_tokens = int(self._firsts[-1])

    @property
    def job_sha256(self) -> str:
        """Digest by which an interrupted job recognises the corpus."""
        return self.sha256

    @property
    def ends_with_eos(self) -> bool:
        """Whether the corpus says that every document ends with the end-of-text token."""
        return False

    @property
    def total_bytes(self) -> int:
        """Bytes of the tokens."""
        return sum(int(shard.tokens.nbytes) for shard in self._shards)

    def boundaries(self) -> NDArray[np.int64]:
        """Return the start of each document, and the end of the last, ``[documents + 1]``.

        Raises:
            CorruptFileError: They do not rise.
        """
        parts = [np.zeros(1, np.int64)]
        for first, shard in zip(self._firsts[:-1].tolist(), self._shards, strict=True):
            self._check_rising(shard.bounds, 0, len(shard.tokens))
            parts.append(shard.bounds[1:] + first)
        return np.concatenate(parts)

    def batches(self) -> Generator[TokenBatch]:
        """Read the documents, in the form of `tokenise`.

        Raises:
            CorruptFileError: The boundaries of documents do not rise.
        """
        read_bytes = 0
        for shard in self._shards:
            bounds = shard.bounds
            self._check_rising(bounds, 0, len(shard.tokens))
            for start, end in pairwise(cut_batches(bounds)):
                part = shard.tokens[bounds[start] : bounds[end]]
                read_bytes += int(part.nbytes)
                ids = self._ids(shard, part)
                yield TokenBatch(ids, bounds[start : end + 1] - bounds[start], read_bytes)

    def read(self, begin: int, end: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read tokens begin..end-1.

        Returns:
            The token ids ``[n]``, and True where a document starts ``[n]``.

        Raises:
            CorruptFileError: The boundaries of documents do not rise.
        """
        parts, starts = [], np.zeros(end - begin, dtype=bool)
        at = int(np.searchsorted(self._firsts, begin, side="right")) - 1
        last = int(np.searchsorted(self._firsts, end))
        for first, shard in zip(self._firsts[at:last].tolist(), self._shards[at:last], strict=True):
            tokens, bounds = shard.tokens, shard.bounds
            start, stop = max(begin - first, 0), min(end - first, len(tokens))
            parts.append(self._ids(shard, tokens[start:stop]))
            low, high = np.searchsorted(bounds, [start, stop])
            self._check_rising(bounds[low:high], start, stop)
            starts[bounds[low:high] + (first - begin)] = True
        return np.concatenate(parts) if parts else np.empty(0, np.uint32), starts

    def _ids(self, shard: TokenShard, part: NDArray[Any]) -> NDArray[Any]:
        """Return a part of a shard's tokens as ids of the tokenizer."""
        return part

    def _check_rising(self, bounds: NDArray[Any], low: int, high: int) -> None:
        """Check boundaries when they are read, since reading all of a large corpus takes long."""
        if len(bounds) and not (
            low <= bounds[0] and bounds[-1] <= high and (bounds[1:] >= bounds[:-1]).all()
        ):
            raise CorruptFileError(
                f"{self.folder} is damaged: the boundaries of its documents do not rise.",
                "Write the folder again.",
                folder=str(self.folder),
            )


@dataclass(frozen=True)
class _Place:
    """An array in a file: its path, what shows that it is the same, and `np.memmap`'s arguments."""

    file: str
    state: tuple[int, ...]
    dtype: np.dtype[Any]
    offset_bytes: int
    shape: tuple[int, ...]


def _place_of(array: NDArray[Any]) -> _Place | NDArray[Any]:
    """Return where a mapped array is stored; the array itself if it is not mapped."""
    whole: Any = array
    while not isinstance(whole, np.memmap) or isinstance(whole.base, np.memmap):
        if not isinstance(whole.base, np.ndarray):
            return array
        whole = whole.base
    if whole.filename is None or not array.size or not array.flags.c_contiguous:
        return array
    offset_bytes = whole.offset + array.ctypes.data - whole.ctypes.data
    file = str(whole.filename)
    return _Place(file, _state_of(file), array.dtype, offset_bytes, array.shape)


def _state_of(file: str) -> tuple[int, ...]:
    status = Path(file).stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _shard_of(name: str, *parts: _Place | NDArray[Any]) -> TokenShard:
    return TokenShard(name, *(_mapped(it) if isinstance(it, _Place) else it for it in parts))


def _mapped(place: _Place) -> NDArray[Any]:
    """Map an array again.

    Raises:
        CorruptFileError: Its file has changed or gone since.
    """
    try:
        is_same = _state_of(place.file) == place.state
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise CorruptFileError(
            f"{place.file} has changed since it was opened.",
            "Open the corpus again; do not replace one that is being read.",
            path=place.file,
        )
    return np.memmap(place.file, place.dtype, "r", place.offset_bytes, place.shape)
