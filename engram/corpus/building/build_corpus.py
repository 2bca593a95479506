"""`build_corpus`: text to token shards, in a folder that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engram.addressing.tokenizer_files import TokenizerFile, describe_tokenizer
from engram.corpus.building.build_plan import BuildPlan, Engine
from engram.corpus.building.units import UNIT_BYTES
from engram.corpus.results.manifests import CORPUS_SCHEMA
from engram.corpus.results.result_folder import ResultFolder
from engram.corpus.results.stored_corpus import BuiltCorpus
from engram.corpus.text.sources import Source, check_options, find_sources
from engram.corpus.text.text_options import STDIN, TextOptions
from engram.errors import UsageError
from engram.storage.files import Progress


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
        unit_bytes: About as many bytes of text as a unit has.
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
    plan = plan_build(
        text, tokenizer, folder, options, resume=resume, overwrite=overwrite, unit_bytes=unit_bytes
    )
    return plan.run(workers=workers, engine=engine, progress=progress)


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
        UsageError: Standard input is read together with other inputs, or is to be resumed; or an
            option has no effect on the text.
    """
    options = TextOptions() if options is None else options
    names = [text] if isinstance(text, (str, Path)) else text
    if STDIN in names and (len(names) > 1 or resume):
        what = "read together with other inputs" if len(names) > 1 else "read again to resume"
        raise UsageError(f"Standard input cannot be {what}.", "Write it to a file first.")
    found = [
        ([name], [])
        if isinstance(name, Source)
        else find_sources(name, options.text_key is not None)
        for name in names
    ]
    sources = [source for files, _ in found for source in files]
    if not all(isinstance(name, Source) for name in names):
        check_options(sources, options.split, options.text_key)
    return BuildPlan(
        sources=sources,
        tokenizer=describe_tokenizer(tokenizer),
        output=ResultFolder(Path(folder), CORPUS_SCHEMA, resume, overwrite),
        options=options,
        passed_over=tuple(entry for _, entries in found for entry in entries),
        unit_bytes=unit_bytes,
    )
