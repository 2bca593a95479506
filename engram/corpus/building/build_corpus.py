"""Builds a corpus: text to token shards, in units of work that survive interruptions."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import engram
from engram.addressing.tokenizer_files import TokenizerFile
from engram.corpus.building.local_engine import run_local
from engram.corpus.building.unit_work import (
    BuildRules,
    Notes,
    Report,
    UnitResult,
    UnitTask,
    finished_unit,
    keep_unit,
    read_unit,
)
from engram.corpus.building.units import UNIT_BYTES, Unit, plan_units
from engram.corpus.results.manifests import (
    CORPUS_SCHEMA,
    CORPUS_SHAPE,
    find_manifest,
    read_manifest,
)
from engram.corpus.results.result_folder import (
    MANIFEST,
    check_folder,
    check_whole,
    damage,
    listed_bytes,
    new_folder,
    write_manifest,
)
from engram.corpus.results.work_folder import (
    ATTEMPT,
    check_work,
    discard,
    drop_done,
    note_assembled,
    working,
)
from engram.corpus.text.reading_errors import no_text
from engram.corpus.text.sources import Source
from engram.corpus.tokens.token_shards import DocumentShards
from engram.corpus.tokens.tokenise import check_eos, token_dtype
from engram.errors import InputError
from engram.storage.files import Progress
from engram.storage.folders import remove_torn

# Does units and yields the index and result of each, in order; reports the bytes it has read.
Engine = Callable[[Sequence[UnitTask], Report], Iterator[tuple[int, UnitResult]]]


@dataclass(frozen=True)
class BuiltCorpus:
    """Result of `build_corpus`.

    Attributes:
        manifest: The corpus's manifest.
        written_bytes: Bytes of the folder.
        fresh_tokens: Tokens of the units done in this run.
        resumed_units: Units that an earlier run had finished.
        was_finished: Whether the whole corpus was there already.
        notes: What was met while its text was tokenised.
    """

    manifest: dict[str, Any]
    written_bytes: int
    fresh_tokens: int
    resumed_units: int
    was_finished: bool
    notes: Notes


def build_corpus(
    sources: Sequence[Source],
    tokenizer: TokenizerFile,
    folder: Path,
    rules: BuildRules,
    *,
    workers: int = 1,
    engine: Engine | None = None,
    resume: bool = False,
    overwrite: bool = False,
    unit_bytes: int = UNIT_BYTES,
    progress: Progress | None = None,
) -> BuiltCorpus:
    """Tokenise a text into token shards.

    The work is kept in a hidden folder beside `folder` until all is done; it takes as much space as
    the corpus. If the build is interrupted, finished units stay there, and `resume` continues.

    Args:
        sources: The files of the text, from `find_sources`.
        tokenizer: The tokenizer, read from a file.
        folder: The output folder.
        rules: The rules for turning the text into a corpus.
        workers: Processes on this machine.
        engine: Does the units elsewhere than in processes of this machine.
        resume: Whether to continue an unfinished build; a finished one is recognised.
        overwrite: Whether an existing corpus or unfinished build may be replaced.
        unit_bytes: Approximate bytes of text per unit.
        progress: Called with the bytes of text done so far and their total.

    Returns:
        The manifest, and statistics of the run.

    Raises:
        InputError: The text cannot be read, has no tokens, or has changed since the build began;
            or the folder exists.
        CorruptFileError: The finished corpus that `resume` finds is damaged.
        WorkerLostError: A worker process was killed.
    """
    check_eos(tokenizer, rules.add_eos)
    job = text_job(sources, tokenizer, rules, unit_bytes)
    remove_torn(folder)
    if resume and (finished := _finished(folder, job, overwrite)) is not None:
        discard(folder)
        return finished
    check_folder(folder, CORPUS_SCHEMA, overwrite)
    with working(folder, job, resume, overwrite) as work:
        tasks = plan_tasks(sources, tokenizer, rules, work, unit_bytes)
        results = {task.index: done for task in tasks if (done := finished_unit(task)) is not None}
        resumed = frozenset(results)
        todo = [task for task in tasks if task.index not in results]
        report = _report(tasks, resumed, progress)
        report(0)
        done_bytes = 0
        do = engine or (lambda tasks, report: run_local(tasks, workers, report))
        attempt = work / f"{ATTEMPT}{uuid.uuid4().hex[:8]}"
        attempt.mkdir()
        # A worker that outlives this process must not write where another one works.
        for index, result in do([replace(task, folder=attempt) for task in todo], report):
            keep_unit(tasks[index], attempt)
            results[index] = result
            done_bytes += tasks[index].unit.size_bytes
            report(done_bytes)
        ordered = [results[task.index] for task in tasks]
        if not sum(result.tokens for result in ordered):
            drop_done(work)
            problems = [InputError(text) for result in ordered for text in result.problems[:1]]
            raise no_text(sources, problems)
        return _assemble(folder, work, job, tasks, ordered, tokenizer, rules, overwrite, resumed)


def plan_tasks(
    sources: Sequence[Source],
    tokenizer: TokenizerFile,
    rules: BuildRules,
    folder: Path = Path(),
    unit_bytes: int = UNIT_BYTES,
) -> list[UnitTask]:
    """Cut the work on a text into units; see `build_corpus` and `plan_units`.

    Args:
        sources: The files of the text.
        tokenizer: The tokenizer, read from a file.
        rules: The rules for turning the text into tokens.
        folder: Folder for the units, if they are written.
        unit_bytes: Approximate bytes of text per unit.
    """
    units = plan_units(sources, rules.split, unit_bytes)
    sizes = [source.size_bytes for source in sources]
    text_bytes = None if None in sizes else sum(size or 0 for size in sizes)
    made_with = str(tokenizer.path or tokenizer.name), tokenizer.digest
    return [
        UnitTask(i, unit, rules, *made_with, folder, text_bytes) for i, unit in enumerate(units)
    ]


def check_build(
    sources: Sequence[Source],
    tokenizer: TokenizerFile,
    folder: Path,
    rules: BuildRules,
    *,
    resume: bool = False,
    overwrite: bool = False,
    unit_bytes: int = UNIT_BYTES,
) -> None:
    """Check that `build_corpus` can start with the same arguments; nothing is written.

    Raises:
        InputError: An error that `build_corpus` would raise before it starts.
    """
    check_eos(tokenizer, rules.add_eos)
    job = text_job(sources, tokenizer, rules, unit_bytes)
    if not resume or _finished(folder, job, overwrite) is None:
        check_folder(folder, CORPUS_SCHEMA, overwrite)
        check_work(folder, job, resume, overwrite)


def _report(
    tasks: Sequence[UnitTask], resumed: frozenset[int], progress: Progress | None
) -> Report:
    """Return a callback that reports progress from the bytes of the units done in this run."""
    total = sum(task.unit.size_bytes for task in tasks)
    before = sum(tasks[index].unit.size_bytes for index in resumed)
    highest = -1

    def report(read_bytes: int) -> None:
        nonlocal highest
        # Workers are ahead of the counted units, and a unit's share of a file is approximate.
        done = min(before + read_bytes, total) if total else read_bytes
        if progress is not None and done > highest:
            highest = done
            progress(done, total or None)

    return report


def text_job(
    sources: Sequence[Source], tokenizer: TokenizerFile, rules: BuildRules, unit_bytes: int
) -> dict[str, Any]:
    """Return everything that determines the bytes of the corpus, and when the files changed."""
    inputs = [
        {
            "name": source.name,
            "bytes": source.size_bytes,
            "modified_ns": source.path.stat().st_mtime_ns if source.path else None,
        }
        for source in sources
    ]
    return {
        "engram_version": engram.__version__,
        "tokenizer": {
            "name": tokenizer.name,
            "sha256": tokenizer.digest,
            "vocab_size": tokenizer.vocab_size,
            "eos_id": tokenizer.eos_id if rules.add_eos else None,
        },
        **asdict(rules),
        "unit_bytes": unit_bytes,
        "inputs": inputs,
    }


def without_times(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job with only the names and sizes of its inputs, for manifests."""
    inputs = [{key: file[key] for key in ("name", "bytes")} for file in job["inputs"]]
    return {**job, "inputs": inputs}


def _finished(folder: Path, job: dict[str, Any], overwrite: bool) -> BuiltCorpus | None:
    """Return the existing corpus if it is the requested one.

    Raises:
        CorruptFileError: It is, but one of its files is missing or changed; with `overwrite` it
            is ignored.
    """
    manifest = find_manifest(folder, CORPUS_SCHEMA, CORPUS_SHAPE)
    if manifest is None or not without_times(job).items() <= manifest.items():
        return None
    if not overwrite:
        check_whole(folder, manifest, "Build it again: --overwrite instead of --resume.")
    elif damage(folder, manifest):
        return None
    size = listed_bytes(folder, manifest)
    notes = Notes(manifest["counts"]["skipped"], tuple(manifest["problems"]))
    return BuiltCorpus(manifest, size, 0, len(manifest["units"]), was_finished=True, notes=notes)


def _assemble(
    folder: Path,
    work: Path,
    job: dict[str, Any],
    tasks: Sequence[UnitTask],
    results: Sequence[UnitResult],
    tokenizer: TokenizerFile,
    rules: BuildRules,
    overwrite: bool,
    resumed: frozenset[int],
) -> BuiltCorpus:
    """Write the units as shards, in a folder that appears whole."""
    notes = Notes.of_units(results)
    with new_folder(folder, CORPUS_SCHEMA, overwrite) as new:
        shards = DocumentShards(new, tokenizer.vocab_size, rules.shard_tokens)
        for task in tasks:
            for batch in read_unit(task, tokenizer.vocab_size):
                shards.add(batch)
        shards.close()
        counts = {
            "documents": sum(result.documents for result in results),
            "tokens": sum(result.tokens for result in results),
            "skipped": notes.skipped,
        }
        values = {
            "schema": CORPUS_SCHEMA,
            **without_times(job),
            "dtype": token_dtype(tokenizer.vocab_size).name,
            "counts": counts,
            "problems": list(notes.problems),
            "units": [
                _unit_entry(task.unit, result) for task, result in zip(tasks, results, strict=True)
            ],
            "shards": shards.shards,
        }
        size = write_manifest(new, values)
        note_assembled(work, new / MANIFEST)
        manifest = read_manifest(new)
    return BuiltCorpus(
        manifest,
        size,
        sum(result.tokens for i, result in enumerate(results) if i not in resumed),
        len(resumed),
        was_finished=False,
        notes=notes,
    )


def _unit_entry(unit: Unit, result: UnitResult) -> dict[str, Any]:
    sources = [
        {"name": source.name, "begin": source.begin, "end": source.end} for source in unit.sources
    ]
    return {"documents": result.documents, "tokens": result.tokens, "sources": sources}
