"""Cuts a text into units of work, independent of the number of workers."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise

from engram.corpus.text.arrow_rows import rows_of_batches
from engram.corpus.text.blocks import grouped
from engram.corpus.text.documents import DocumentEnds, Split
from engram.corpus.text.json_values import holds_json_lines
from engram.corpus.text.parquet_rows import rows_of_groups
from engram.corpus.text.sources import Source
from engram.corpus.text.streams import open_source
from engram.errors import InputError

UNIT_BYTES = 2**22
# A short text is cut smaller, so that workers that share it end at about the same time.
_LEAST_BYTES = 2**19
_LEAST_UNITS = 64
# The next end of a document is near, mostly.
_BLOCK_BYTES = 2**14


# Files and parts of files, for one worker; parts start and end between documents.
Unit = tuple[Source, ...]


def fitting_bytes(sources: Sequence[Source], most_bytes: int) -> int:
    """Return about how many bytes of text a unit is to have.

    Args:
        sources: The files.
        most_bytes: What it is for a long text, and for one of two units or fewer. Others are cut
            into some 64 units of 512 KiB or more, if these are smaller.
    """
    total = sum(source.size_bytes or 0 for source in sources)
    if total <= 2 * most_bytes:
        return most_bytes
    return min(most_bytes, max(_LEAST_BYTES, total // _LEAST_UNITS))


def plan_units(sources: Sequence[Source], split: Split, unit_bytes: int = UNIT_BYTES) -> list[Unit]:
    """Cut a text into units.

    A plain file is cut at the first end of a document after every `unit_bytes`, a .parquet between
    row groups, an .arrow between record batches; compressed files, and files that are one document
    each, stay whole. Small files share a unit.

    Args:
        sources: The files.
        split: The end of a document in plain text.
        unit_bytes: Approximate bytes per unit.

    Returns:
        The units. Their documents, in order, are those of the sources.
    """
    parts = (part for source in sources for part in _parts(source, split, unit_bytes))
    return list(map(tuple, grouped(parts, lambda part: part.size_bytes or 0, unit_bytes)))


def _parts(source: Source, split: Split, unit_bytes: int) -> Iterator[Source]:
    size = source.size_bytes
    if source.path is None or source.compression is not None or not size or source.format == "csv":
        yield source
        return
    bounds = [0]
    if source.has_rows:
        groups = rows_of_groups(source) if source.format == "parquet" else rows_of_batches(source)
        total = max(sum(groups), 1)
        for group, done in enumerate(accumulate(groups[:-1]), 1):
            if size * done // total >= len(bounds) * unit_bytes:
                bounds.append(group)
        bounds.append(len(groups))
        shares = [sum(groups[a:b]) * size // total for a, b in pairwise(bounds)]
        shares[-1] += size - sum(shares)
    else:
        bounds += [*_cuts(source, "line" if source.has_keys else split, size, unit_bytes), size]
        shares = [end - begin for begin, end in pairwise(bounds)]
    for (begin, end), share in zip(pairwise(bounds), shares, strict=True):
        yield replace(source, begin=begin, end=end, size_bytes=share)


def _cuts(source: Source, split: Split, size: int, unit_bytes: int) -> Iterator[int]:
    """Find the positions between documents at which a plain file is cut."""
    if split == "file" or source.path is None or size <= unit_bytes or not _is_cut(source):
        return
    with source.path.open("rb") as file:
        cut = 0
        while cut + unit_bytes < size:
            ends = DocumentEnds(split, cut + unit_bytes)
            file.seek(ends.seen)
            blocks = iter(partial(file.read, _BLOCK_BYTES), b"")
            cut = next((found[0] for found in map(ends.feed, blocks) if found), size)
            if cut < size:
                yield cut


def _is_cut(source: Source) -> bool:
    """Whether a file can be cut at newlines: not a list of JSON records, not UTF-16."""
    with suppress(InputError), open_source(source) as stream:  # reported when the file is read
        return source.format != "json" or holds_json_lines(stream)
    return False
