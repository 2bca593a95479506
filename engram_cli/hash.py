"""`engram hash`: a text to hash ids, and how it fills the tables."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from engram.errors import InputError, UsageError
from engram.threads import usable_cores
from engram.units import plural
from engram_cli.engine import (
    find_engine,
    stopping_at_once,
    tell_engines,
    tell_what_is_kept,
)
from engram_cli.options import (
    AddressOption,
    ConfigOption,
    DryRunOption,
    EngineOption,
    EosOption,
    JsonOption,
    LayersOption,
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
from engram_cli.values import read_count

if TYPE_CHECKING:
    from engram.config.engram_config import EngramConfig

_CACHE_TOKENS = 1_000_000


def hash(
    text: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Text (.txt, .jsonl, .ndjson, .json, .csv, .tsv, .parquet; .gz, .zst), folder of "
            "texts or of token shards, or - for stdin.",
        ),
    ],
    config: ConfigOption = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "-t",
            "--tokenizer",
            metavar="NAME|PATH",
            help="Folder, tokenizer.json or hub id. Default: the config's, or gpt2.",
        ),
    ] = None,
    output: OutputOption = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Statistics only, no ids; the same as no -o.")
    ] = False,
    layers: LayersOption = None,
    split: SplitOption = None,
    text_column: TextColumnOption = None,
    eos: EosOption = None,
    on_error: OnErrorOption = "stop",
    num_proc: NumProcOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    resume: ResumeOption = False,
    format: Annotated[
        Literal["npy", "parquet"], typer.Option(help="Files that -o writes.")
    ] = "npy",
    shard_size: ShardSizeOption = 2**22,
    predict: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            parser=read_count,
            help="Expect distinct n-grams of a text of this length, as 10B. Default: 10 times it.",
        ),
    ] = None,
    cache_curve: Annotated[
        bool,
        typer.Option(
            "--cache-curve",
            help="How often a cache of rows would hit, by its size: how much RAM or VRAM to put in "
            "front of the table.",
        ),
    ] = False,
    cache_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            parser=read_count,
            help="Beginning of the text that --cache-curve measures. Default: 1M.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare the digests of all files of token shards before they are read."
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Turn a text into hash ids, and say how it fills the tables.

    Every document starts anew: its first n-grams read the layout's fill. Each ends with the
    tokenizer's end-of-text token unless --no-eos is given, as in engram corpus build.

    Rows hit are exact; so are distinct n-grams up to 16.8M an order, and what collides; then they
    are estimated, distinct ones to about 0.1 %, and say so. Stored ids take 4 bytes for each row
    that a token reads: hashing again is mostly faster than reading, and engram.HashedDataset does
    it for training. Until -o is done, tokens and ids lie in a hidden folder beside DIR, where
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
        $ engram hash corpus.txt -c config.yaml --predict 10B --cache-curve
        $ engram hash corpus.txt -c config.yaml -o ids -j 2 --resume
        $ engram hash tokens -c config.yaml --engine ray -j 2
    """
    from engram.corpus.building.unit_work import check_digest
    from engram.corpus.hash.hash_config import find_memory
    from engram.corpus.hash.hash_folder import Target
    from engram.corpus.hash.pipeline import check_target, hash_text
    from engram.corpus.results.result_folder import MANIFEST
    from engram.corpus.text.readers import TextReader
    from engram.corpus.text.sources import STDIN
    from engram.corpus.tokens.stored_tokens import StoredTokens
    from engram.corpus.tokens.token_shards import SHARD_TOKENS
    from engram.growth import FIRST_TOKENS
    from engram_cli.corpus_text import passed_over_text, passed_over_values, skipped_text
    from engram_cli.hash_answer import answer, default_note, write_plan
    from engram_cli.hash_text import plan_text, show

    out = Output(json=json, quiet=quiet, verbose=verbose)
    if stats and output is not None:
        raise UsageError("--stats writes no ids, and -o says where to.", "Leave one of them out.")
    if output is None and (overwrite or format != "npy" or shard_size != SHARD_TOKENS):
        raise UsageError(
            "--format, --shard-size and --overwrite are for what -o writes.",
            "Leave them out, or give -o.",
        )
    if dry_run and output is None:
        raise UsageError("Without -o nothing is written.", "Leave out --dry-run, or give -o.")
    if resume and (output is None or text == STDIN):
        raise UsageError(
            "Only what -o writes can be resumed, from a text that can be read again.",
            "Leave out --resume.",
        )
    if predict is not None and predict < FIRST_TOKENS:
        raise UsageError(
            f"--predict {predict}: growth is counted from {FIRST_TOKENS:,} tokens on.",
            "Give a longer length, such as 10B.",
        )
    measured = _CACHE_TOKENS if cache_tokens is None else cache_tokens
    if not cache_curve and cache_tokens is not None:
        raise UsageError(
            f"--cache-tokens {cache_tokens} says what --cache-curve measures, which is not there.",
            "Add --cache-curve, or leave out --cache-tokens.",
        )
    workers = num_proc or usable_cores()
    doing = find_engine(engine, address, workers, text == STDIN)
    if num_proc is not None:
        # Read by tokenizers when it first encodes a batch; it takes all cores by itself.
        os.environ["RAYON_NUM_THREADS"] = str(num_proc)

    reader: TextReader | StoredTokens
    if (Path(text) / MANIFEST).is_file():
        if not (eos is None and text_column is None and split is None and on_error == "stop"):
            raise UsageError(
                f"{text} holds tokens: --eos, --no-eos, --text-column, --split and --on-error are "
                "for text.",
                "They were chosen when it was built.",
            )
        reader = StoredTokens(Path(text), check_digests=check)
        stored = reader.tokenizer
        add_eos = stored.get("eos_id") is not None
        tokenizer = tokenizer or (stored["name"] if config is None else None)
    elif check:
        raise UsageError(f"{text} is no folder of tokens: it has no digests.", "Leave out --check.")
    else:
        reader = TextReader(text, split=split, text_key=text_column, on_error=on_error)
        add_eos = eos is not False
    passed_over = [] if isinstance(reader, StoredTokens) else reader.passed_over
    target = None
    if output is not None:
        target = Target(output, format, shard_size, overwrite, resume)
        if not resume:
            target.check()
    stated = None if config is None else _memory_config(out, config)
    if config is not None and _is_checkpoint(config):
        from engram.checkpoints.read.open_checkpoint import open_checkpoint

        open_checkpoint(Path(config)).check(find_memory(stated, tokenizer)[2])
    memory, file, addresses = find_memory(stated, tokenizer, layers)
    if config is None:
        out.note(default_note(memory, addresses))
    if isinstance(reader, StoredTokens):
        check_digest(file, reader.tokenizer["sha256"])
    if passed_over:
        out.note(passed_over_text(passed_over))
    if target is not None:
        check_target(reader, file, addresses, add_eos, target)
        plan = write_plan(target, reader, file, addresses, add_eos)
        if dry_run:
            out.result(plan, lambda console: console.print(plan_text(plan)))
            return
        out.note(plan_text(plan))
    try:
        with stopping_at_once(out), out.progress("Hashing", unit="B") as step, doing as ray:
            hashed = hash_text(
                reader,
                file,
                addresses,
                add_eos=add_eos,
                threads=workers,
                engine=ray,
                target=target,
                cache_tokens=measured if cache_curve else None,
                progress=step,
            )
    except BaseException as error:
        if output is not None:
            tell_what_is_kept(out, error, output, text == STDIN)
        raise
    if hashed.was_finished:
        out.note(f"{output} was finished already.")
    elif hashed.resumed_shards:
        shards = plural(hashed.resumed_shards, "shard")
        out.note(f"Went on after {shards} that an earlier run had finished.")
    tell_engines(out, hashed.notes.engines)
    for warning in hashed.notes.warnings:
        out.warn(warning)
    if hashed.notes.skipped:
        out.warn(skipped_text(hashed.notes.skipped, hashed.notes.problems))
    payload = {
        **answer(hashed, file, addresses, add_eos, memory.row_width, predict),
        "passed_over": passed_over_values(passed_over),
        "output": str(output) if output is not None else None,
        "output_bytes": hashed.written_bytes,
        "was_finished": hashed.was_finished,
        "resumed_shards": hashed.resumed_shards,
        "engine": engine,
    }
    out.result(payload, lambda console: show(console, payload, verbose))
    if output is None and text != STDIN:
        words = ["engram", "hash", text, *(["-c", config] if config else [])]
        words += ["-t", tokenizer] if tokenizer else []
        words += ["--layers", ",".join(map(str, layers))] if layers else []
        words += ["--split", split] if split else []
        words += ["--text-column", text_column] if text_column else []
        words += ["--no-eos"] if eos is False else []
        words += ["--on-error", on_error] if on_error != "stop" else []
        out.next_step(f"{shlex.join(words)} -o FOLDER")


def _memory_config(out: Output, name: str) -> EngramConfig:
    """Read a config file or template, or what a checkpoint with a memory says of itself."""
    from engram_cli.config_name import read_named

    if not _is_checkpoint(name):
        return read_named(out, name)
    from engram.checkpoints.read.inspect import inspect_checkpoint

    folder = Path(name)
    found = inspect_checkpoint(folder)
    if found.config is None:
        raise InputError(f"The memory of {name} ({found.title}) is not hashed by these layouts.")
    own = (folder / "tokenizer.json").is_file()
    return replace(found.config, tokenizer=name) if own else found.config


def _is_checkpoint(name: str) -> bool:
    """Whether -c names the folder of a checkpoint, and not a config."""
    from engram.config.templates import is_template

    return not is_template(name) and Path(name).is_dir()
