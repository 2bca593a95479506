"""The text, tokenizer and options that decide the bytes of a corpus, and its units of work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.corpus.building.unit_work import UnitTask
from engram.corpus.building.units import UNIT_BYTES, plan_units
from engram.corpus.text.sources import Source
from engram.corpus.text.text_options import TextOptions
from engram.version import __version__

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile


def plan_tasks(
    sources: Sequence[Source],
    tokenizer: TokenizerFile,
    options: TextOptions,
    folder: Path = Path(),
    unit_bytes: int = UNIT_BYTES,
) -> list[UnitTask]:
    """Cut the work on a text into units; see `plan_units`.

    Args:
        sources: The files of the text.
        tokenizer: The tokenizer, read from a file.
        options: Rules by which the text becomes tokens.
        folder: Where units are written, if they are.
        unit_bytes: About as many bytes of text as a unit has.
    """
    units = plan_units(sources, options.splits_by, unit_bytes)
    sizes = [source.size_bytes for source in sources]
    text_bytes = None if None in sizes else sum(size or 0 for size in sizes)
    made_with = str(tokenizer.path or tokenizer.name), tokenizer.digest
    return [
        UnitTask(i, unit, options, *made_with, folder, text_bytes) for i, unit in enumerate(units)
    ]


def text_job(
    sources: Sequence[Source], tokenizer: TokenizerFile, options: TextOptions, unit_bytes: int
) -> dict[str, Any]:
    """Everything that the bytes of the corpus follow from, and when the files were changed."""
    inputs = [
        {
            "name": source.name,
            "bytes": source.size_bytes,
            "modified_ns": source.path.stat().st_mtime_ns if source.path else None,
        }
        for source in sources
    ]
    return {
        "engram_version": __version__,
        "tokenizer": tokenizer.stated(options.adds_eos),
        **asdict(options),
        **{"add_eos": options.adds_eos, "split": options.splits_by},
        "unit_bytes": unit_bytes,
        "inputs": inputs,
    }


def without_times(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job with the names and sizes of its inputs alone, as manifests tell it."""
    inputs = [{key: file[key] for key in ("name", "bytes")} for file in job["inputs"]]
    return {**job, "inputs": inputs}
