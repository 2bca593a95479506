"""`engram corpus`: text to token shards, what they hold, and whether they are whole."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

import engram
from engram.corpus.text.text_options import STDIN, TextOptions
from engram.errors import UsageError
from engram.threads import usable_cores
from engram.units import plural
from engram_cli.corpus_text import built_text, info_text, passed_over_text, plan_text
from engram_cli.engine import find_engine, tell_work, working_on
from engram_cli.help import Command, new_app
from engram_cli.options import (
    OUTPUT,
    TEXT,
    AddressOption,
    DryRunOption,
    EngineOption,
    NumProcOption,
    OutputOption,
    OverwriteOption,
    ResumeOption,
    taking,
)
from engram_cli.output import Output

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
@taking(options=TEXT, out=OUTPUT)
def build(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Text files (.jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow too; .gz, "
            ".zst), folders of them, or - for stdin.",
        ),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            "-t", "--tokenizer", metavar="NAME|PATH", help="Folder, tokenizer.json or hub id."
        ),
    ],
    output: OutputOption = None,
    *,
    options: TextOptions,
    num_proc: NumProcOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    out: Output,
) -> None:
    """Turn text into token shards.

    A document is a piece of a plain text (--split), or a record: a line of a .jsonl or .ndjson, an
    object of a .json (in a list, one a line, or alone; other content is an error), a row of a .csv,
    .parquet or .arrow. Each ends with the tokenizer's end-of-text token unless --no-eos is given,
    as in engram hash. In folders, hidden files, linked folders and folders of tokens or hash ids
    are passed over, and listed.

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
    if output is None:
        raise UsageError("There is no folder to write to.", "Say where with -o.")
    workers = num_proc or usable_cores()
    doing = find_engine(engine, address, workers, STDIN in inputs)
    # Read by tokenizers when it first encodes a batch; it takes all cores by itself.
    os.environ["RAYON_NUM_THREADS"] = str(workers)
    from engram.corpus.building.build_corpus import plan_build

    plan = plan_build(inputs, tokenizer, output, options, resume=resume, overwrite=overwrite)
    if plan.reader.passed_over:
        out.note(passed_over_text(plan.reader.passed_over))
    plan.check()
    if dry_run:
        planned = plan.to_dict()
        out.result(planned, plan_text(planned))
        return
    with (
        working_on(out, output, STDIN in inputs),
        out.progress("Tokenising", has_thread=False) as step,  # its workers are forks
        doing as ray,
    ):
        built = plan.run(
            workers=workers, engine=None if ray is None else ray.run_units, progress=step
        )
    resumed = f"{plural(built.resumed_units, 'unit')} of work" if built.resumed_units else ""
    tell_work(out, output, built.was_finished, resumed, built.notes)
    answer = built.to_dict()
    out.result(answer, built_text(answer))
    out.next_step(f"engram hash {shlex.quote(str(output))} -c CONFIG")


@corpus.command(cls=Command)
@taking(out=OUTPUT)
def info(
    folder: FolderArgument,
    *,
    out: Output,
) -> None:
    """Show what a corpus holds, from its manifest alone.

    Examples:
        $ engram corpus info tokens
        $ engram corpus info tokens --json
    """
    answer = engram.describe_corpus(folder).to_dict()
    out.result(answer, info_text(answer, out.verbose))


@corpus.command(cls=Command)
@taking(out=OUTPUT)
def verify(
    folder: FolderArgument,
    *,
    out: Output,
) -> None:
    """Check a corpus: files, counts, boundaries, token ids, and a sample against its text.

    Of a folder of hash ids: files, counts, and a sample of ids against its tokens. Ends with 5 when
    something is wrong. What cannot be compared, such as a text that is no longer there, does not
    fail.

    Examples:
        $ engram corpus verify tokens
        $ engram corpus verify tokens --json
    """
    checks = engram.verify_corpus(folder)
    texts = [f"{check.verdict:<12} {check.name}: {check.detail}" for check in checks]
    out.result(checks.to_dict(), texts)
    if not checks.ok:
        raise typer.Exit(5)
