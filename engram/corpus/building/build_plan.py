"""`BuildPlan`: the work that builds a corpus, in units that are done once, whatever interrupts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from engram.addressing.tokenizer_files import TokenizerFile
from engram.corpus.building.local_engine import run_local
from engram.corpus.building.unit_work import (
    Report,
    UnitResult,
    UnitTask,
    finished_unit,
    keep_unit,
    read_unit,
)
from engram.corpus.building.units import UNIT_BYTES, plan_units
from engram.corpus.results.manifests import CORPUS_SCHEMA, read_manifest
from engram.corpus.results.result_folder import (
    ResultFolder,
    listed_bytes,
    write_manifest,
)
from engram.corpus.results.stored_corpus import BuiltCorpus, Notes
from engram.corpus.results.work_folder import ATTEMPT, discard, drop_done
from engram.corpus.text.reading_errors import no_text
from engram.corpus.text.sources import PassedOver, Source, passed_over_dict
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens.token_shards import DocumentShards
from engram.corpus.tokens.tokenise import check_eos, token_dtype
from engram.errors import InputError
from engram.storage.files import Progress
from engram.storage.folders import remove_torn
from engram.version import __version__

# Does units and gives each one's index and result, in their order; reports the bytes it has read.
Engine = Callable[[Sequence[UnitTask], Report], Iterator[tuple[int, UnitResult]]]


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """A corpus to be built, from `plan_build`.

    Attributes:
        sources: The files of the text.
        tokenizer: The tokenizer, read from a file.
        output: The folder to appear.
        options: Rules by which the text becomes a corpus.
        passed_over: Entries of the text's folders that are not read.
        unit_bytes: About as many bytes of text as a unit has.
    """

    sources: Sequence[Source]
    tokenizer: TokenizerFile
    output: ResultFolder
    options: TextOptions
    passed_over: tuple[PassedOver, ...] = ()
    unit_bytes: int = UNIT_BYTES

    @property
    def text_bytes(self) -> int | None:
        """Size of the text as stored; None when not known."""
        sizes = [source.size_bytes for source in self.sources]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def job(self) -> dict[str, Any]:
        """Everything that the bytes of the corpus follow from, and when the files were changed."""
        inputs = [
            {
                "name": source.name,
                "bytes": source.size_bytes,
                "modified_ns": source.path.stat().st_mtime_ns if source.path else None,
            }
            for source in self.sources
        ]
        options = self.options
        return {
            "engram_version": __version__,
            "tokenizer": self.tokenizer.stated(options.adds_eos),
            **{field.name: getattr(options, field.name) for field in fields(TextOptions)},
            **{"add_eos": options.adds_eos, "split": options.splits_by},
            "unit_bytes": self.unit_bytes,
            "inputs": inputs,
        }

    def tasks(self, folder: Path) -> list[UnitTask]:
        """Cut the work into units, whose files appear in a folder; see `plan_units`."""
        units = plan_units(self.sources, self.options.splits_by, self.unit_bytes)
        made_with = str(self.tokenizer.path or self.tokenizer.name), self.tokenizer.digest
        return [
            UnitTask(i, unit, self.options, *made_with, folder, self.text_bytes)
            for i, unit in enumerate(units)
        ]

    def check(self) -> None:
        """Check that `run` may begin; nothing is written.

        Raises:
            InputError: What `run` would raise before it begins.
        """
        check_eos(self.tokenizer, self.options.adds_eos)
        job = self.job()
        if self._finished(job) is None:
            self.output.check(job)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram corpus build --dry-run --json`` prints."""
        return {
            "schema": CORPUS_SCHEMA,
            "dry_run": True,
            "output": str(self.output.path),
            "files": len(self.sources),
            "input_bytes": self.text_bytes,
            "passed_over": passed_over_dict(self.passed_over),
        }

    def run(
        self, *, workers: int = 1, engine: Engine | None = None, progress: Progress | None = None
    ) -> BuiltCorpus:
        """Do the work; see `build_corpus`."""
        started = time.perf_counter()
        check_eos(self.tokenizer, self.options.adds_eos)
        job = self.job()
        remove_torn(self.output.path)
        built = self._finished(job)
        if built is not None:
            discard(self.output.path)
        else:
            do = engine or (lambda tasks, report: run_local(tasks, workers, report))
            built = self._build(job, do, progress)
        who = "local" if engine is None else "ray"
        return replace(built, engine=who, seconds=time.perf_counter() - started)

    def _finished(self, job: dict[str, Any]) -> BuiltCorpus | None:
        """Return the corpus that is there when it is the one asked for."""
        manifest = self.output.finished(_without_times(job), "Build it again")
        if manifest is None:
            return None
        return self._built(
            manifest=manifest,
            written_bytes=listed_bytes(self.output.path, manifest),
            fresh_tokens=0,
            resumed_units=len(manifest["units"]),
            was_finished=True,
            notes=Notes(
                skipped=manifest["counts"]["skipped"], problems=tuple(manifest["problems"])
            ),
        )

    def _build(self, job: dict[str, Any], do: Engine, progress: Progress | None) -> BuiltCorpus:
        """Do the units that are not done, and put all of them together."""
        with self.output.working(job) as work:
            tasks = self.tasks(work)
            results = {
                task.index: done for task in tasks if (done := finished_unit(task)) is not None
            }
            resumed = frozenset(results)
            todo = [task for task in tasks if task.index not in results]
            report = _report(tasks, resumed, progress)
            report(0)
            done_bytes = 0
            attempt = work / f"{ATTEMPT}{uuid.uuid4().hex[:8]}"
            attempt.mkdir()
            # A worker that outlives this process does not write where another one works.
            for index, result in do([replace(task, folder=attempt) for task in todo], report):
                keep_unit(tasks[index], attempt)
                results[index] = result
                done_bytes += tasks[index].size_bytes
                report(done_bytes)
            ordered = [results[task.index] for task in tasks]
            if not sum(result.tokens for result in ordered):
                drop_done(work)
                problems = [InputError(text) for result in ordered for text in result.problems[:1]]
                raise no_text(self.sources, problems)
            return self._assemble(work, job, tasks, ordered, resumed)

    def _assemble(
        self,
        work: Path,
        job: dict[str, Any],
        tasks: Sequence[UnitTask],
        results: Sequence[UnitResult],
        resumed: frozenset[int],
    ) -> BuiltCorpus:
        """Put the units together as shards, in a folder that appears whole."""
        notes, vocab_size = Notes.of_parts(results), self.tokenizer.vocab_size
        with self.output.new() as new:
            shards = DocumentShards(new, vocab_size, self.options.shard_tokens)
            for task in tasks:
                for batch in read_unit(task, vocab_size):
                    shards.add(batch)
            shards.close()
            values = {
                "schema": CORPUS_SCHEMA,
                **_without_times(job),
                "dtype": token_dtype(vocab_size).name,
                "counts": {
                    "documents": sum(result.documents for result in results),
                    "tokens": sum(result.tokens for result in results),
                    "skipped": notes.skipped,
                },
                "problems": list(notes.problems),
                "units": [
                    {
                        "documents": result.documents,
                        "tokens": result.tokens,
                        "sources": [
                            {"name": source.name, "begin": source.begin, "end": source.end}
                            for source in task.sources
                        ],
                    }
                    for task, result in zip(tasks, results, strict=True)
                ],
                "shards": shards.shards,
            }
            size = write_manifest(new, work, values)
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
            folder=self.output.path, passed_over=self.passed_over, eos_token=eos_token, **found
        )


def _without_times(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job with the names and sizes of its inputs alone, as manifests tell it."""
    inputs = [{key: file[key] for key in ("name", "bytes")} for file in job["inputs"]]
    return {**job, "inputs": inputs}


def _report(
    tasks: Sequence[UnitTask], resumed: frozenset[int], progress: Progress | None
) -> Report:
    """Return what reports progress from the bytes of the units that are done now."""
    total = sum(task.size_bytes for task in tasks)
    before = sum(tasks[index].size_bytes for index in resumed)
    highest = -1

    def report(read_bytes: int) -> None:
        nonlocal highest
        # Workers are ahead of the units that are counted, and a file's share is only about its own.
        done = min(before + read_bytes, total) if total else read_bytes
        if progress is not None and done > highest:
            highest = done
            progress(done, total or None)

    return report
