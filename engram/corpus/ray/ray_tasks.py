"""Tasks of Ray workers for `RayEngine`, which depend on their arguments only."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.addressing.addresses import Addresses
from engram.corpus.building.unit_work import UnitTask, encode_unit
from engram.corpus.counts.statistics import PartialStatistics, Statistics
from engram.corpus.results.stored_corpus import Notes
from engram.corpus.tokens.tokenise import TokenBatch
from engram.errors import EngramError, MismatchError, MissingFileError
from engram.version import __version__

_NO_LIMIT = 2**62

# A module-level generator function; Ray sends its name, not its code.
Work = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Failure:
    """Result of a task that raised an error meant for the user."""

    error: Exception


def serve(version: str, work: Work, call: tuple[Any, ...]) -> Iterator[Any]:
    """Run a task in a Ray worker, which has one CPU."""
    os.environ["RAYON_NUM_THREADS"] = "1"
    try:
        if __version__ != version:
            raise MismatchError(
                f"The Ray worker on {socket.gethostname()} has engram-toolkit {__version__}, "
                f"this command is {version}: their results may differ.",
                "Install the same version on every node.",
                expected=version,
                found=__version__,
            )
        yield from work(*call)
    except (EngramError, OSError) as error:
        yield Failure(error)


def encode(task: UnitTask) -> Iterator[TokenBatch | Notes]:
    """Tokenise a unit, see `encode_unit`; check first that this node sees its files."""
    for path in (*(source.path for source in task.sources), Path(task.tokenizer)):
        if path is not None and path.is_absolute() and not path.exists():
            raise MissingFileError(
                f"The Ray worker on {socket.gethostname()} does not see {path}.",
                "Put the text and the tokenizer where every node sees them under the same path, or "
                "leave out --engine ray.",
                file=str(path),
                node=socket.gethostname(),
            )
    yield from encode_unit(task)


def count(
    addresses: Addresses, levels: dict[int, int], documents: TokenBatch, begin: int, end: int
) -> Iterator[PartialStatistics]:
    """Count positions begin..end-1 of documents, see `Statistics.part`."""
    # Copied, since kernels would be compiled again for read-only arrays.
    own = TokenBatch(documents.tokens.copy(), documents.boundaries.copy(), 0)
    yield Statistics(addresses, most_distinct=_NO_LIMIT, levels=levels).part(own, begin, end)
