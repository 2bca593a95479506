"""`BuildPlan`: the work that builds a corpus, in units that are done once, whatever interrupts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.corpus.building.build_job import plan_tasks, text_job, without_times
from engram.corpus.building.built_corpus import BuiltCorpus
from engram.corpus.building.local_engine import run_local
from engram.corpus.building.unit_work import (
    Notes,
    Report,
    UnitResult,
    UnitTask,
    finished_unit,
    keep_unit,
    read_unit,
)
from engram.corpus.building.units import UNIT_BYTES, Unit
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
from engram.corpus.text.readers import no_text
from engram.corpus.text.sources import PassedOver, Source, passed_over_dict
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens.token_shards import DocumentShards
from engram.corpus.tokens.tokenise import check_eos, token_dtype
from engram.errors import InputError
from engram.storage.files import Progress
from engram.storage.folders import remove_torn

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile

# Does units and gives each one's index and result, in their order; reports the bytes it has read.
Engine = Callable[[Sequence[UnitTask], Report], Iterator[tuple[int, UnitResult]]]


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """A corpus to be built, from `plan_build`.

    Attributes:
        sources: The files of the text.
        tokenizer: The tokenizer, read from a file.
        folder: The folder to appear.
        options: Rules by which the text becomes a corpus.
        passed_over: Entries of the text's folders that are not read.
        resume: Whether to continue an unfinished build; a finished one is recognised.
        overwrite: Whether a corpus or an unfinished build that is there may be replaced.
        unit_bytes: About as many bytes of text as a unit has.
    """

    sources: Sequence[Source]
    tokenizer: TokenizerFile
    folder: Path
    options: TextOptions
    passed_over: tuple[PassedOver, ...] = ()
    resume: bool = False
    overwrite: bool = False
    unit_bytes: int = UNIT_BYTES

    def job(self) -> dict[str, Any]:
        """Everything that the bytes of the corpus follow from."""
        return text_job(self.sources, self.tokenizer, self.options, self.unit_bytes)

    def check(self) -> None:
        """Check that `run` may begin; nothing is written.

        Raises:
            InputError: What `run` would raise before it begins.
        """
        check_eos(self.tokenizer, self.options.adds_eos)
        job = self.job()
        if not self.resume or self._finished(job) is None:
            check_folder(self.folder, CORPUS_SCHEMA, self.overwrite)
            check_work(self.folder, job, self.resume, self.overwrite)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram corpus build --dry-run --json`` prints."""
        sizes = [source.size_bytes for source in self.sources]
        return {
            "schema": CORPUS_SCHEMA,
            "dry_run": True,
            "output": str(self.folder),
            "files": len(sizes),
            "input_bytes": None if None in sizes else sum(size or 0 for size in sizes),
            "passed_over": passed_over_dict(self.passed_over),
        }

    def run(
        self, *, workers: int = 1, engine: Engine | None = None, progress: Progress | None = None
    ) -> BuiltCorpus:
        """Do the work; see `build_corpus`."""
        started = time.perf_counter()
        built = self._run(workers, engine, progress)
        who = "local" if engine is None else "ray"
        return replace(built, engine=who, seconds=time.perf_counter() - started)

    def _run(self, workers: int, engine: Engine | None, progress: Progress | None) -> BuiltCorpus:
        check_eos(self.tokenizer, self.options.adds_eos)
        job = self.job()
        remove_torn(self.folder)
        if self.resume and (finished := self._finished(job)) is not None:
            discard(self.folder)
            return finished
        check_folder(self.folder, CORPUS_SCHEMA, self.overwrite)
        with working(self.folder, job, self.resume, self.overwrite) as work:
            tasks = plan_tasks(self.sources, self.tokenizer, self.options, work, self.unit_bytes)
            results = {
                task.index: done for task in tasks if (done := finished_unit(task)) is not None
            }
            resumed = frozenset(results)
            todo = [task for task in tasks if task.index not in results]
            report = _report(tasks, resumed, progress)
            report(0)
            done_bytes = 0
            do = engine or (lambda tasks, report: run_local(tasks, workers, report))
            attempt = work / f"{ATTEMPT}{uuid.uuid4().hex[:8]}"
            attempt.mkdir()
            # A worker that outlives this process does not write where another one works.
            for index, result in do([replace(task, folder=attempt) for task in todo], report):
                keep_unit(tasks[index], attempt)
                results[index] = result
                done_bytes += tasks[index].unit.size_bytes
                report(done_bytes)
            ordered = [results[task.index] for task in tasks]
            if not sum(result.tokens for result in ordered):
                drop_done(work)
                problems = [InputError(text) for result in ordered for text in result.problems[:1]]
                raise no_text(self.sources, problems)
            return self._assemble(work, job, tasks, ordered, resumed)

    def _finished(self, job: dict[str, Any]) -> BuiltCorpus | None:
        """Return the corpus that is there when it is the one asked for.

        Raises:
            CorruptFileError: It is, but one of its files is missing or changed; with `overwrite` it
                counts as none.
        """
        manifest = find_manifest(self.folder, CORPUS_SCHEMA, CORPUS_SHAPE)
        if manifest is None or not without_times(job).items() <= manifest.items():
            return None
        if not self.overwrite:
            check_whole(self.folder, manifest, "Build it again: --overwrite instead of --resume.")
        elif damage(self.folder, manifest):
            return None
        return self._built(
            manifest=manifest,
            written_bytes=listed_bytes(self.folder, manifest),
            fresh_tokens=0,
            resumed_units=len(manifest["units"]),
            was_finished=True,
            notes=Notes(manifest["counts"]["skipped"], tuple(manifest["problems"])),
        )

    def _assemble(
        self,
        work: Path,
        job: dict[str, Any],
        tasks: Sequence[UnitTask],
        results: Sequence[UnitResult],
        resumed: frozenset[int],
    ) -> BuiltCorpus:
        """Put the units together as shards, in a folder that appears whole."""
        notes = Notes.of_units(results)
        with new_folder(self.folder, CORPUS_SCHEMA, self.overwrite) as new:
            shards = DocumentShards(new, self.tokenizer.vocab_size, self.options.shard_tokens)
            for task in tasks:
                for batch in read_unit(task, self.tokenizer.vocab_size):
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
                "dtype": token_dtype(self.tokenizer.vocab_size).name,
                "counts": counts,
                "problems": list(notes.problems),
                "units": [
                    _unit_entry(task.unit, result)
                    for task, result in zip(tasks, results, strict=True)
                ],
                "shards": shards.shards,
            }
            size = write_manifest(new, values)
            note_assembled(work, new / MANIFEST)
            manifest = read_manifest(new)
        return self._built(
            manifest=manifest,
            written_bytes=size,
            fresh_tokens=sum(it.tokens for i, it in enumerate(results) if i not in resumed),
            resumed_units=len(resumed),
            was_finished=False,
            notes=notes,
        )

    def _built(self, **found: Any) -> BuiltCorpus:
        eos_token = self.tokenizer.eos_token if self.options.adds_eos else None
        return BuiltCorpus(
            folder=self.folder, passed_over=self.passed_over, eos_token=eos_token, **found
        )


def _report(
    tasks: Sequence[UnitTask], resumed: frozenset[int], progress: Progress | None
) -> Report:
    """Return what reports progress from the bytes of the units that are done now."""
    total = sum(task.unit.size_bytes for task in tasks)
    before = sum(tasks[index].unit.size_bytes for index in resumed)
    highest = -1

    def report(read_bytes: int) -> None:
        nonlocal highest
        # Workers are ahead of the units that are counted, and a file's share is only about its own.
        done = min(before + read_bytes, total) if total else read_bytes
        if progress is not None and done > highest:
            highest = done
            progress(done, total or None)

    return report


def _unit_entry(unit: Unit, result: UnitResult) -> dict[str, Any]:
    sources = [
        {"name": source.name, "begin": source.begin, "end": source.end} for source in unit.sources
    ]
    return {"documents": result.documents, "tokens": result.tokens, "sources": sources}
