"""`engram hash`: a text to hash ids, and how it fills the tables."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engram.errors import InputError, UsageError
from engram.units import format_bytes, parse_count, row_bytes
from engram_cli.options import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    OutputOption,
    OverwriteOption,
    QuietOption,
    VerboseOption,
    layer_list,
)
from engram_cli.output import Output

if TYPE_CHECKING:
    from engram.addressing.addresses import Addresses
    from engram.addressing.tokenizer_files import TokenizerFile
    from engram.config import EngramConfig
    from engram.corpus.pipeline import HashedText, Target
    from engram.corpus.readers import TextReader
    from engram.corpus.stored_tokens import StoredTokens

SCHEMA = "engram.hash/1"
_LISTED_PROBLEMS = 10
_CACHE_DTYPES = ("float32", "bfloat16", "fp8", "int8")


def hash(
    text: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Text (.txt, .jsonl, .parquet, .gz, .zst), folder of texts or of token shards, or "
            "- for stdin.",
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
    layers: Annotated[
        str | None,
        typer.Option(metavar="IDS", help="Layers from 0, as 1,6. Default: the config's."),
    ] = None,
    split: Annotated[
        Literal["paragraph", "line", "file"],
        typer.Option(help="What is one document of a text; blank lines end a paragraph."),
    ] = "paragraph",
    text_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Key of the text in .jsonl records. Default: text. With it stdin is JSON lines.",
        ),
    ] = None,
    eos: Annotated[
        bool, typer.Option("--eos", help="End every document with the end-of-text token.")
    ] = False,
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="Stop at a document that cannot be read, or skip and list it."),
    ] = "stop",
    threads: Annotated[
        int | None,
        typer.Option("-j", "--threads", min=1, help="Threads. Default: one for each core."),
    ] = None,
    format: Annotated[
        Literal["npy", "parquet"], typer.Option(help="Files that -o writes.")
    ] = "npy",
    shard_tokens: Annotated[
        int, typer.Option(metavar="COUNT", min=1, help="Tokens that fill a file of -o.")
    ] = 2**22,
    predict: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
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
        str,
        typer.Option(metavar="TOKENS", help="Beginning of the text that --cache-curve measures."),
    ] = "1M",
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Turn a text into hash ids, and say how it fills the tables.

    Every document starts anew: its first n-grams read the layout's fill. Rows hit are exact; so are
    distinct n-grams up to 16.8M an order, and what collides; then they are estimated, distinct ones
    to about 0.1 %, and say so. Stored ids take 4 bytes for each row that a token reads: hashing
    again is mostly faster than reading, and engram.HashedDataset does it for training.

    Examples:
        $ engram hash corpus.txt -t gpt2
        $ engram hash corpus.txt -c config.yaml --stats --json
        $ engram hash corpus.txt -c ./attached-model
        $ engram hash corpus.jsonl --text-key text -c config.yaml --eos -o hashed
        $ engram hash - -t gpt2 --split line --layers 1,6
        $ engram hash tokens -c config.yaml
        $ engram hash corpus.txt -c config.yaml --predict 10B --cache-curve
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    predicted = parse_count(predict) if predict is not None else None
    sample = parse_count(cache_tokens) if cache_curve else None
    if stats and output is not None:
        raise UsageError("--stats writes no ids, and -o says where to.", "Leave one of them out.")
    if dry_run and output is None:
        raise UsageError("Without -o nothing is written.", "Leave out --dry-run, or give -o.")
    if threads is not None:
        # Read by tokenizers when it first encodes a batch; it takes all cores by itself.
        os.environ["RAYON_NUM_THREADS"] = str(threads)

    from engram.corpus.folder import MANIFEST
    from engram.corpus.memory import find_memory
    from engram.corpus.pipeline import Target, hash_text
    from engram.corpus.readers import TextReader
    from engram.corpus.stored_tokens import StoredTokens
    from engram.corpus.unit_work import check_digest
    from engram_cli.hash_text import show

    reader: TextReader | StoredTokens
    if (Path(text) / MANIFEST).is_file():
        if eos or text_key is not None or split != "paragraph":
            raise UsageError(
                f"{text} holds tokens: --eos, --text-key and --split are for text.",
                "They were chosen when it was built.",
            )
        reader = StoredTokens(Path(text))
        stored = reader.tokenizer
        eos = stored.get("eos_id") is not None
        tokenizer = tokenizer or (stored["name"] if config is None else None)
    else:
        reader = TextReader(text, split=split, text_key=text_key, on_error=on_error)
    target = None
    if output is not None:
        target = Target(output, format, shard_tokens, overwrite)
        target.check()
    memory, file, addresses = find_memory(
        _memory_config(config) if config is not None else None,
        tokenizer,
        layer_list(layers) if layers is not None else None,
    )
    if config is None:
        out.note(_default_note(memory, addresses))
    if isinstance(reader, StoredTokens):
        check_digest(file, reader.tokenizer["sha256"])
    elif reader.ignored_files:
        out.note(f"{reader.ignored_files} files of {text} are no text: not read.")
    if target is not None:
        plan = _plan(target, reader, file, addresses)
        if dry_run:
            out.result(plan, lambda console: console.print(_plan_text(plan)))
            return
        out.note(_plan_text(plan))
    with out.progress("Hashing", unit="B") as step:
        hashed = hash_text(
            reader,
            file,
            addresses,
            add_eos=eos,
            threads=threads or _cores(),
            target=target,
            cache_tokens=sample,
            progress=step,
        )
    if hashed.engine:
        out.note(hashed.engine)
    if hashed.problem:
        out.warn(hashed.problem)
    skipped = 0
    if isinstance(reader, TextReader) and (skipped := reader.skipped):
        out.warn(_skipped(reader))
    payload = {
        "schema": SCHEMA,
        "documents": hashed.documents,
        "skipped": skipped,
        "tokens": hashed.tokens,
        "ids": hashed.ids,
        "seconds": round(hashed.seconds, 3),
        "tokens_per_second": round(hashed.tokens / hashed.seconds),
        "tokenizer": {"name": file.name, "vocab_size": file.vocab_size, "sha256": file.digest},
        "compressed_vocab_size": None if addresses.token_map is None else addresses.vocab_size,
        "fingerprint": addresses.fingerprint,
        "layers": [asdict(layer) for layer in hashed.layers],
        "growth": _growth(hashed, predicted or 10 * hashed.tokens),
        "cache": _cache(hashed, addresses, memory) if cache_curve else None,
        "output": str(output) if output is not None else None,
        "output_bytes": hashed.written_bytes,
    }
    words = ["engram", "hash", text, *(["-c", config] if config else [])]
    words += [*(["-t", tokenizer] if tokenizer else []), *(["--layers", layers] if layers else [])]
    command = shlex.join(words)
    out.result(payload, lambda console: show(console, payload, command, verbose))


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_config(name: str) -> EngramConfig:
    """Read a config file or template, or what a checkpoint with a memory says of itself."""
    from engram.templates import load_config

    folder = Path(name)
    if not folder.is_dir():
        return load_config(name)
    from engram.checkpoints.inspect import inspect_checkpoint

    found = inspect_checkpoint(folder)
    if found.config is None:
        raise InputError(f"The memory of {name} ({found.title}) is not hashed by these layouts.")
    own = (folder / "tokenizer.json").is_file()
    return replace(found.config, tokenizer=name) if own else found.config


def _default_note(config: EngramConfig, addresses: Addresses) -> str:
    layers = ", ".join(map(str, addresses.layer_ids))
    return (
        f"No -c: sized for the tokenizer, with {config.engram_table_size[0]:,} rows per order "
        f"(twice its {config.engram_vocab_size:,} ids) in {config.n_head_per_ngram} heads, orders "
        f"2 to {config.max_ngram_size}, layers [{layers}], layout {config.layout}, "
        f"seed {config.seed}."
    )


def _plan(
    target: Target,
    reader: TextReader | StoredTokens,
    tokenizer: TokenizerFile,
    addresses: Addresses,
) -> dict[str, Any]:
    """Say what would be written; .parquet files are somewhat smaller."""
    from engram.corpus.pipeline import estimate_bytes
    from engram.corpus.shards import bytes_per_token

    parent = target.folder.absolute().parent
    while not parent.exists():
        parent = parent.parent
    return {
        "schema": SCHEMA,
        "dry_run": True,
        "fingerprint": addresses.fingerprint,
        "output": str(target.folder),
        "format": target.format,
        "bytes_per_token": bytes_per_token(addresses, tokenizer.vocab_size),
        "estimated_bytes": estimate_bytes(reader, tokenizer, addresses),
        "free_bytes": shutil.disk_usage(parent).free,
    }


def _plan_text(plan: dict[str, Any]) -> str:
    total = plan["estimated_bytes"]
    about = f", about {format_bytes(total)} in all" if total is not None else ""
    return (
        f"{plan['output']} takes {plan['bytes_per_token']} bytes a token{about}; "
        f"{format_bytes(plan['free_bytes'])} are free there."
    )


def _skipped(reader: TextReader) -> str:
    lines = [error.message for error in reader.errors[:_LISTED_PROBLEMS]]
    if reader.skipped > len(lines):
        lines.append(f"... and {reader.skipped - len(lines)} more")
    return "\n  ".join([f"{reader.skipped} documents were skipped:", *lines])


def _growth(hashed: HashedText, tokens: int) -> list[dict[str, Any]]:
    curves = []
    for curve in hashed.growth:
        prediction = curve.predict(tokens)
        curves.append(
            {
                **curve.to_dict(),
                "prediction": None if prediction is None else asdict(prediction),
            }
        )
    return curves


def _cache(hashed: HashedText, addresses: Addresses, memory: EngramConfig) -> dict[str, Any]:
    sizes = {dtype: row_bytes(memory.row_width, dtype) for dtype in _CACHE_DTYPES}
    layers = [asdict(layer) for layer in hashed.caches]
    for layer in layers:
        for point in layer["points"]:
            point["bytes"] = {dtype: point["rows"] * size for dtype, size in sizes.items()}
    return {
        "tokens": hashed.cache_tokens,
        "is_whole_text": hashed.cache_tokens == hashed.tokens,
        "rows_per_token": addresses.n_columns,
        "row_width": memory.row_width,
        "row_bytes": sizes,
        "layers": layers,
    }
