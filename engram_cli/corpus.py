"""`engram corpus`: text to token shards, what they hold, and whether they are whole."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from engram.errors import UsageError
from engram.threads import usable_cores
from engram.units import plural
from engram_cli.engine import (
    find_engine,
    stopping_at_once,
    tell_engines,
    tell_what_is_kept,
)
from engram_cli.help import Command, new_app
from engram_cli.options import (
    AddressOption,
    DryRunOption,
    EngineOption,
    EosOption,
    JsonOption,
    NumProcOption,
    OnErrorOption,
    OutputOption,
    OverwriteOption,
    QuietOption,
    ResumeOption,
    ShardSizeOption,
    SplitOption,
    TextColumnOption,
    VerboseOption,
)
from engram_cli.output import Output

SCHEMA = "engram.corpus/1"

corpus = new_app(
    help="""Build token shards from text, show what they hold, check them.

    A corpus is a folder of plain .npy files: token ids and the boundaries of documents, and a
    manifest.json with the tokenizer's digest, counts, and the sha256 of every file.

    Examples:
        $ engram corpus build corpus.txt -t gpt2 -o shards
        $ engram corpus build corpus.jsonl -t gpt2 -o records --text-column text --json
    """
)

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a corpus.")]


@corpus.command(cls=Command)
def build(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Text files (.jsonl, .ndjson, .json, .csv, .tsv, .parquet too; .gz, .zst), "
            "folders of them, or - for stdin.",
        ),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            "-t", "--tokenizer", metavar="NAME|PATH", help="Folder, tokenizer.json or hub id."
        ),
    ],
    output: OutputOption = None,
    split: SplitOption = None,
    text_column: TextColumnOption = None,
    eos: EosOption = None,
    shard_size: ShardSizeOption = 2**22,
    on_error: OnErrorOption = "stop",
    num_proc: NumProcOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Turn text into token shards.

    A document is a piece of a plain text (--split), or a record: a line of a .jsonl or .ndjson, an
    object of a .json (in a list, one a line, or alone; other content is an error), a row of a .csv
    or .parquet. Each ends with the tokenizer's end-of-text token unless --no-eos is given, as in
    engram hash. In folders, hidden files, linked folders and folders of tokens or hash ids are
    passed over, and listed.

    The bytes of the corpus follow from the text and these options alone, not from -j, --engine or
    interruptions. Until all is done, the work lies in a hidden folder beside DIR, as large as the
    corpus. On Ray only the text and the tokenizer have to be on every node: tokens come back
    through Ray and are written here.

    Examples:
        $ engram corpus build corpus.txt -t gpt2 -o shards
        $ engram corpus build corpus.jsonl corpus.txt -t gpt2 -o both -j 2 --resume
        $ engram corpus build - -t gpt2 -o lines --split line --no-eos --json
        $ engram corpus build corpus.txt -t gpt2 -o by-ray --engine ray -j 2
    """
    from engram.addressing.tokenizer_files import load_tokenizer
    from engram.corpus.building.build_corpus import build_corpus, check_build
    from engram.corpus.building.unit_work import BuildRules
    from engram.corpus.text.sources import STDIN, check_options, find_sources
    from engram_cli.corpus_text import (
        passed_over_text,
        passed_over_values,
        plan_text,
        show_built,
        skipped_text,
    )
    from engram_cli.hash_answer import eos_token

    out = Output(json=json, quiet=quiet, verbose=verbose)
    if output is None:
        raise UsageError("There is no folder to write to.", "Say where with -o.")
    if STDIN in inputs and (len(inputs) > 1 or resume):
        what = "read together with other inputs" if len(inputs) > 1 else "read again to resume"
        raise UsageError(f"Standard input cannot be {what}.", "Write it to a file first.")
    workers = num_proc or usable_cores()
    doing = find_engine(engine, address, workers, STDIN in inputs)
    # Read by tokenizers when it first encodes a batch; it takes all cores by itself.
    os.environ["RAYON_NUM_THREADS"] = str(workers)
    found = [find_sources(name, text_column is not None) for name in inputs]
    sources = [source for files, _ in found for source in files]
    passed_over = [entry for _, entries in found for entry in entries]
    check_options(sources, split, text_column)
    file = load_tokenizer(tokenizer)
    if passed_over:
        out.note(passed_over_text(passed_over))
    rules = BuildRules(
        add_eos=eos is not False,
        split=split or "paragraph",
        text_key=text_column,
        on_error=on_error,
        shard_tokens=shard_size,
    )
    check_build(sources, file, output, rules, resume=resume, overwrite=overwrite)
    if dry_run:
        plan = _plan(output, [source.size_bytes for source in sources])
        plan["passed_over"] = passed_over_values(passed_over)
        out.result(plan, lambda console: console.print(plan_text(plan)))
        return
    try:
        with stopping_at_once(out), out.progress("Tokenising", unit="B") as step, doing as ray:
            started = time.perf_counter()
            built = build_corpus(
                sources,
                file,
                output,
                rules,
                workers=workers,
                engine=None if ray is None else ray.run_units,
                resume=resume,
                overwrite=overwrite,
                progress=step,
            )
    except BaseException as error:
        tell_what_is_kept(out, error, output, STDIN in inputs)
        raise
    seconds = time.perf_counter() - started
    if built.was_finished:
        out.note(f"{output} was finished already.")
    elif built.resumed_units:
        units = plural(built.resumed_units, "unit")
        out.note(f"Went on after {units} of work that an earlier run had finished.")
    tell_engines(out, built.notes.engines)
    for warning in built.notes.warnings:
        out.warn(warning)
    manifest = built.manifest
    if manifest["counts"]["skipped"]:
        out.warn(skipped_text(manifest["counts"]["skipped"], manifest["problems"]))
    payload = {
        **_summary(output, manifest),
        "eos_token": eos_token(file, rules.add_eos),
        "passed_over": passed_over_values(passed_over),
        "output_bytes": built.written_bytes,
        "was_finished": built.was_finished,
        "resumed_units": built.resumed_units,
        "engine": engine,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(built.fresh_tokens / seconds) if built.fresh_tokens else None,
    }
    out.result(payload, lambda console: show_built(console, payload))
    out.next_step(f"engram hash {shlex.quote(str(output))} -c CONFIG")


@corpus.command(cls=Command)
def info(
    folder: FolderArgument,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show what a corpus holds, from its manifest alone.

    Examples:
        $ engram corpus info tokens
        $ engram corpus info tokens --json
    """
    from engram.corpus.results.manifests import read_manifest
    from engram.corpus.results.result_folder import listed_bytes
    from engram_cli.corpus_text import show_info

    out = Output(json=json, quiet=quiet, verbose=verbose)
    manifest = read_manifest(folder)
    payload = {
        **_summary(folder, manifest),
        "output_bytes": listed_bytes(folder, manifest),
        "problems": manifest["problems"],
        "inputs": manifest["inputs"],
    }
    out.result(payload, lambda console: show_info(console, payload, verbose))


@corpus.command(cls=Command)
def verify(
    folder: FolderArgument,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Check a corpus: files, counts, boundaries, token ids, and a sample against its text.

    Of a folder of hash ids: files, counts, and a sample of ids against its tokens. Ends with 5 when
    something is wrong. What cannot be compared, such as a text that is no longer there, is no
    failure.

    Examples:
        $ engram corpus verify tokens
        $ engram corpus verify tokens --json
    """
    from engram.addressing.tokenizer_files import load_tokenizer
    from engram.corpus.verify.verify_corpus import verify_corpus
    from engram_cli.corpus_text import show_checks

    out = Output(json=json, quiet=quiet, verbose=verbose)
    checks = [asdict(check) for check in verify_corpus(folder, load_tokenizer)]
    payload = {
        "schema": SCHEMA,
        "folder": str(folder),
        "ok": all(check["ok"] is not False for check in checks),
        "checks": checks,
    }
    out.result(payload, lambda console: show_checks(console, payload))
    if not payload["ok"]:
        raise typer.Exit(5)


def _plan(folder: Path, sizes: list[int | None]) -> dict[str, Any]:
    total = None if None in sizes else sum(size or 0 for size in sizes)
    return {
        "schema": SCHEMA,
        "dry_run": True,
        "output": str(folder),
        "files": len(sizes),
        "input_bytes": total,
    }


def _summary(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "output": str(folder),
        **manifest["counts"],
        "shards": len(manifest["shards"]),
        "dtype": manifest["dtype"],
        "tokenizer": manifest["tokenizer"],
        "split": manifest["split"],
    }
