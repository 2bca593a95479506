"""`engram hash`: a text to hash ids, and how it fills the tables."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from engram.corpus.hash.hash_options import HashOptions
from engram.corpus.text.text_options import STDIN
from engram.errors import InputError, UsageError
from engram.threads import usable_cores
from engram.units import plural
from engram_cli.engine import find_engine, tell_work, working_on
from engram_cli.options import (
    OUTPUT,
    TEXT,
    AddressOption,
    ConfigOption,
    DryRunOption,
    EngineOption,
    LayersOption,
    NumProcOption,
    OutputOption,
    OverwriteOption,
    PlotOption,
    ResumeOption,
    taking,
)
from engram_cli.output import Output
from engram_cli.pictures import check_plot, write_plot
from engram_cli.values import read_count, read_named

if TYPE_CHECKING:
    from engram.config.engram_config import EngramConfig

_HASH = {
    **TEXT,
    "layers": LayersOption,
    "check": Annotated[
        bool,
        typer.Option(
            "--check", help="Compare the digests of all files of token shards before they are read."
        ),
    ],
    "predict": Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            parser=read_count,
            help="Expect distinct n-grams of a text of this length, as 10B. Default: 10 times it.",
        ),
    ],
    "cache_curve": Annotated[
        bool,
        typer.Option(
            "--cache-curve",
            help="How often a cache of rows would hit, by its size: how much RAM or VRAM to put in "
            "front of the table.",
        ),
    ],
    "cache_tokens": Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            parser=read_count,
            help="Beginning of the text that --cache-curve measures. Default: 1M.",
        ),
    ],
    "format": Annotated[Literal["npy", "parquet"], typer.Option(help="Files that -o writes.")],
    "overwrite": OverwriteOption,
    "resume": ResumeOption,
}


@taking(options=_HASH, out=OUTPUT)
def hash(
    ctx: typer.Context,
    text: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Text (.txt, .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow; .gz, .zst), "
            "folder of texts, tokens (ours, Megatron's, datatrove's, llm.c's, a data set's), or - "
            "for stdin.",
        ),
    ],
    config: ConfigOption = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "-t",
            "--tokenizer",
            metavar="NAME|PATH",
            help="Folder, tokenizer.json or hub id. Default: the config's, that of the tokens, or "
            "gpt2.",
        ),
    ] = None,
    output: OutputOption = None,
    *,
    stats: Annotated[
        bool, typer.Option("--stats", help="Statistics only, no ids; the same as no -o.")
    ] = False,
    options: HashOptions,
    num_proc: NumProcOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    plot: PlotOption = None,
    dry_run: DryRunOption = False,
    out: Output,
) -> None:
    """Turn a text into hash ids, and say how it fills the tables.

    Every document starts anew: its first n-grams read the layout's fill. Each ends with the
    tokenizer's end-of-text token unless --no-eos is given, as in engram corpus build.

    Rows hit are exact; so are distinct n-grams up to 16.8M an order, and what collides; then they
    are estimated, distinct ones to about 0.1 %, and say so. Stored ids take 4 bytes for each row
    that a token reads: hashing again is mostly faster than reading, and engram.HashedDataset does
    it for training. Tokens of other tools are checked against the tokenizer of -c or -t, since they
    do not say their own. Until -o is done, tokens and ids lie in a hidden folder beside DIR, where
    --resume finds them.

    Statistics are one pass with the threads of this machine; on Ray, tasks tokenise and count
    pieces of the text. Ids are always hashed here, which is faster than sending them.

    Examples:
        $ engram hash corpus.txt -t gpt2
        $ engram hash corpus.txt -c config.yaml --stats --json
        $ engram hash corpus.txt -c ./attached-model
        $ engram hash corpus.jsonl --text-column text -c config.yaml --no-eos -o hashed
        $ engram hash - -t gpt2 --split line --layers 1,6
        $ engram hash tokens -c config.yaml
        $ engram hash corpus.txt -c config.yaml --predict 10B --cache-curve --plot stats.png
        $ engram hash corpus.txt -c config.yaml -o ids -j 2 --resume
        $ engram hash tokens -c config.yaml --engine ray -j 2
    """
    if stats and output is not None:
        raise UsageError("--stats writes no ids, and -o says where to.", "Leave one of them out.")
    if dry_run and output is None:
        raise UsageError("Without -o nothing is written.", "Leave out --dry-run, or give -o.")
    overwrite = options.overwrite
    check_plot(plot, overwrite)
    if plot is not None and output is None:
        options = replace(options, overwrite=False)  # the picture is all there is to replace
    options.check_writing(output is not None, text == STDIN)
    workers = num_proc or usable_cores()
    doing = find_engine(engine, address, workers, text == STDIN)
    if num_proc is not None:
        # Read by tokenizers when it first encodes a batch; it takes all cores by itself.
        os.environ["RAYON_NUM_THREADS"] = str(num_proc)
    from engram.corpus.hash.hash_text import plan_hash
    from engram_cli.corpus_text import passed_over_text
    from engram_cli.hash_text import default_note, plan_text, show

    memory = None if config is None else _memory_config(out, config, tokenizer)
    plan = plan_hash(text, memory, tokenizer, output=output, options=options)
    if config is None:
        out.note(default_note(plan.config, plan.addresses))
    if plan.note is not None:
        out.note(plan.note)
    if plan.passed_over:
        out.note(passed_over_text(plan.passed_over))
    plan.check()
    if output is not None:
        planned = plan.to_dict()
        if dry_run:
            out.result(planned, plan_text(planned))
            return
        out.note(plan_text(planned))
    with (
        working_on(out, output, text == STDIN),
        out.progress("Hashing") as step,
        doing as ray,
    ):
        hashed = plan.run(workers=workers, engine=ray, progress=step)
    counts, answer = hashed.counts, hashed.to_dict()
    resumed = plural(counts.resumed_shards, "shard") if counts.resumed_shards else ""
    tell_work(out, output, counts.was_finished, resumed, counts.notes)
    out.result(answer, show(answer, out.verbose))
    if plot is not None:
        from engram.pictures.stats_plot import plot_statistics

        source = f"{plural(counts.tokens, 'token')} of {text}, counted as a memory reads them."
        write_plot(out, ctx, plot, plot_statistics, answer, source, overwrite=overwrite)
    if output is None and text != STDIN:
        named = tokenizer or (plan.tokenizer.name if config is None else None)
        out.next_step(f"{_again(text, config, named, options)} -o FOLDER")


def _again(text: str, config: str | None, tokenizer: str | None, options: HashOptions) -> str:
    """The same call once more, but for what is counted."""
    given = {
        "-c": config,
        "-t": tokenizer,
        "--layers": ",".join(map(str, options.layers or ())),
        "--split": options.split,
        "--text-column": options.text_key,
        "--on-error": None if options.on_error == "stop" else options.on_error,
    }
    words = [word for flag, value in given.items() if value for word in (flag, value)]
    end = ["--no-eos"] if options.add_eos is False else []
    return shlex.join(["engram", "hash", text, *words, *end])


def _memory_config(out: Output, name: str, tokenizer: str | None) -> EngramConfig:
    """Read a config file or template, or what a checkpoint with a memory says of itself."""
    from engram.config.templates import is_template

    folder = Path(name)
    if is_template(name) or not folder.is_dir():
        return read_named(out, name)
    from engram.checkpoints.read.inspect import inspect_checkpoint
    from engram.checkpoints.read.open_checkpoint import open_checkpoint
    from engram.corpus.hash.hash_text import find_memory

    found = inspect_checkpoint(folder)
    if found.config is None:
        raise InputError(f"The memory of {name} ({found.title}) is not hashed by these layouts.")
    own = (folder / "tokenizer.json").is_file()
    config = replace(found.config, tokenizer=name) if own else found.config
    open_checkpoint(folder).check(find_memory(config, tokenizer)[2])
    return config
