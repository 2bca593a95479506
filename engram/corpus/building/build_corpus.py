"""`build_corpus`: text to token shards, in units that are done once, whatever interrupts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from engram.addressing.tokenizer_files import TokenizerFile, describe_tokenizer
from engram.arguments import checked
from engram.corpus.building.local_engine import run_local
from engram.corpus.building.unit_work import (
    Report,
    UnitResult,
    UnitTask,
    finished_unit,
    keep_unit,
    read_unit,
    reporting,
)
from engram.corpus.building.units import UNIT_BYTES, fitting_bytes, plan_units
from engram.corpus.results.manifests import CORPUS_SCHEMA, read_manifest
from engram.corpus.results.result_folder import (
    ResultFolder,
    listed_bytes,
    write_manifest,
)
from engram.corpus.results.stored_corpus import BuiltCorpus, Notes
from engram.corpus.results.work_folder import ATTEMPT, discard, drop_done
from engram.corpus.text.readers import TextReader, no_text
from engram.corpus.text.sources import Source, passed_over_dict
from engram.corpus.text.text_options import STDIN, TextOptions
from engram.corpus.tokens.token_shards import DocumentShards
from engram.corpus.tokens.tokenise import check_eos, token_dtype
from engram.errors import InputError, UsageError
from engram.storage.files import Progress
from engram.storage.staging import clean
from engram.version import __version__

# Does units and gives each one's index and result, in their order; reports the bytes it has read.
Engine = Callable[[Sequence[UnitTask], Report], Iterator[tuple[int, UnitResult]]]


@checked(workers=1, unit_bytes=1)
def build_corpus(
    text: str | Path | Sequence[str | Path | Source],
    tokenizer: str | Path | TokenizerFile,
    folder: str | Path,
    options: TextOptions | None = None,
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
        text: Files, folders of them, ``-`` for standard input, or sources from `find_sources`.
        tokenizer: Folder, tokenizer.json or hub id, or the tokenizer itself.
        folder: The folder to appear.
        options: Rules by which the text becomes a corpus.
        workers: Processes on this machine.
        engine: Does the units in another way than in processes of this machine: `run_units` of a
            `RayEngine`.
        resume: Whether to continue an unfinished build; a finished one is recognised.
        overwrite: Whether a corpus or an unfinished build that is there may be replaced.
        unit_bytes: About as many bytes of text as a unit has; see `fitting_bytes`.
        progress: Called with the bytes of text done so far and their total.

    Returns:
        The corpus; `to_dict()` is what ``engram corpus build --json`` prints.

    Raises:
        InputError: The text cannot be read or has no tokens, has changed since the build began, or
            something is in the way.
        MissingFileError: The text or the tokenizer is not there.
        CorruptFileError: The finished corpus that `resume` finds is damaged.
        WorkerLostError: A worker process was killed.

    Examples:
        >>> import engram
        >>> built = engram.build_corpus("corpus.txt", "gpt2", "shards")
        >>> built.manifest["counts"]["documents"]
        2
    """
    return plan_build(
        text, tokenizer, folder, options, resume=resume, overwrite=overwrite, unit_bytes=unit_bytes
    ).run(workers=workers, engine=engine, progress=progress)


def plan_build(
    text: str | Path | Sequence[str | Path | Source],
    tokenizer: str | Path | TokenizerFile,
    folder: str | Path,
    options: TextOptions | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    unit_bytes: int = UNIT_BYTES,
) -> BuildPlan:
    """Find out what `build_corpus` would read; its arguments and errors are the same.

    Raises:
        UsageError: There are no inputs; standard input is read together with others, or is to be
            resumed; or an option has no effect on the text.
    """
    names = [text] if isinstance(text, (str, Path)) else text
    if not names:
        raise UsageError("The list of texts is empty.", "Give at least one file or folder.")
    if STDIN in names and len(names) > 1:
        raise UsageError(
            "Standard input cannot be read together with other inputs.", "Write it to a file first."
        )
    if STDIN in names and resume:
        raise UsageError(
            "Standard input cannot be read again to resume.", "Write it to a file first."
        )
    return BuildPlan(
        reader=TextReader(names, options),
        tokenizer=describe_tokenizer(tokenizer),
        output=ResultFolder(Path(folder), CORPUS_SCHEMA, resume, overwrite),
        unit_bytes=unit_bytes,
    )


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """A corpus to be built, from `plan_build`.

    Attributes:
        reader: The text, and the rules by which it becomes a corpus.
        tokenizer: The tokenizer, read from a file.
        output: The folder to appear.
        unit_bytes: About as many bytes of text as a unit has; see `fitting_bytes`.
    """

    reader: TextReader
    tokenizer: TokenizerFile
    output: ResultFolder
    unit_bytes: int = UNIT_BYTES

    def job(self) -> dict[str, Any]:
        """Everything that the bytes of the corpus follow from, and when the files were changed."""
        options = self.reader.options
        return {
            "engram_version": __version__,
            "tokenizer": self.tokenizer.stated(options.adds_eos),
            **{field.name: getattr(options, field.name) for field in fields(TextOptions)},
            **{"add_eos": options.adds_eos, "split": options.splits_by},
            "unit_bytes": fitting_bytes(self.reader.sources, self.unit_bytes),
            "inputs": [
                {
                    "name": source.name,
                    "bytes": source.size_bytes,
                    "modified_ns": source.path.stat().st_mtime_ns if source.path else None,
                }
                for source in self.reader.sources
            ],
        }

    def tasks(self, folder: Path) -> list[UnitTask]:
        """Cut the work into units, whose files appear in a folder; see `plan_units`."""
        reader, tokenizer = self.reader, self.tokenizer
        unit_bytes = fitting_bytes(reader.sources, self.unit_bytes)
        return [
            UnitTask(
                index=index,
                sources=unit,
                rules=reader.options,
                tokenizer=str(tokenizer.path or tokenizer.name),
                tokenizer_sha256=tokenizer.digest,
                folder=folder,
                text_bytes=reader.total_bytes,
            )
            for index, unit in enumerate(
                plan_units(reader.sources, reader.options.splits_by, unit_bytes)
            )
        ]

    def check(self) -> None:
        """Check that `run` may begin; nothing is written.

        Raises:
            InputError: What `run` would raise before it begins.
        """
        check_eos(self.tokenizer, self.reader.options.adds_eos)
        job = self.job()
        if self._finished(job) is None:
            self.output.check(job)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram corpus build --dry-run --json`` prints."""
        return {
            "schema": CORPUS_SCHEMA,
            "dry_run": True,
            "output": str(self.output.path),
            "files": len(self.reader.sources),
            "input_bytes": self.reader.total_bytes,
            "passed_over": passed_over_dict(self.reader.passed_over),
        }

    def run(
        self, *, workers: int = 1, engine: Engine | None = None, progress: Progress | None = None
    ) -> BuiltCorpus:
        """Do the work; see `build_corpus`."""
        started = time.perf_counter()
        check_eos(self.tokenizer, self.reader.options.adds_eos)
        folder, job = self.output.path, self.job()
        clean(folder)
        manifest = self._finished(job)
        if was_finished := manifest is not None:
            discard(folder)
            notes = Notes(
                skipped=manifest["counts"]["skipped"], problems=tuple(manifest["problems"])
            )
            fresh_tokens, resumed_units = 0, len(manifest["units"])
        else:
            do = engine or (lambda tasks, report: run_local(tasks, workers, report))
            fresh_tokens, resumed_units, notes = self._build(job, do, progress)
            manifest = read_manifest(folder)
        return BuiltCorpus(
            folder=folder,
            manifest=manifest,
            written_bytes=listed_bytes(folder, manifest),
            fresh_tokens=fresh_tokens,
            resumed_units=resumed_units,
            was_finished=was_finished,
            notes=notes,
            passed_over=tuple(self.reader.passed_over),
            eos_token=self.tokenizer.eos_token if self.reader.options.adds_eos else None,
            engine="local" if engine is None else "ray",
            seconds=time.perf_counter() - started,
        )

    def _finished(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """Return the manifest of the corpus that is there when it is the one asked for."""
        return self.output.finished(_without_times(job), "Build it again")

    def _build(
        self, job: dict[str, Any], do: Engine, progress: Progress | None
    ) -> tuple[int, int, Notes]:
        """Do the units that are not done, and put all of them together.

        Returns:
            Tokens of the units that were done now, the number of the others, and notes about all.
        """
        with self.output.working(job) as work:
            tasks = self.tasks(work)
            results = {
                task.index: done for task in tasks if (done := finished_unit(task)) is not None
            }
            todo = [task for task in tasks if task.index not in results]
            report = reporting(tasks, todo, progress)
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
                raise no_text(self.reader.sources, problems)
            notes = Notes.of_parts(ordered)
            self._assemble(work, job, tasks, ordered, notes)
        fresh_tokens = sum(results[task.index].tokens for task in todo)
        return fresh_tokens, len(tasks) - len(todo), notes

    def _assemble(
        self,
        work: Path,
        job: dict[str, Any],
        tasks: Sequence[UnitTask],
        results: Sequence[UnitResult],
        notes: Notes,
    ) -> None:
        """Put the units together as shards, in a folder that appears whole."""
        vocab_size = self.tokenizer.vocab_size
        with self.output.new() as new:
            shards = DocumentShards(new, vocab_size, self.reader.options.shard_tokens)
            for task in tasks:
                for batch in read_unit(task, vocab_size):
                    shards.add(batch)
            shards.close()
            units = [
                {
                    "documents": result.documents,
                    "tokens": result.tokens,
                    "sources": [
                        {"name": source.name, "begin": source.begin, "end": source.end}
                        for source in task.sources
                    ],
                }
                for task, result in zip(tasks, results, strict=True)
            ]
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
                "units": units,
                "shards": shards.shards,
            }
            write_manifest(new, work, values, {})


def _without_times(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job with the names and sizes of its inputs alone, as manifests tell it."""
    inputs = [{key: file[key] for key in ("name", "bytes")} for file in job["inputs"]]
    return {**job, "inputs": inputs}
