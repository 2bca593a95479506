"""`engram constants`: the constants of a memory, as files that engines read."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import engram
from engram.errors import UsageError
from engram_cli.options import (
    OUTPUT,
    ConfigOption,
    ExportedTargetArgument,
    OutputOption,
    OverwriteOption,
    TokenizerOption,
    taking,
)
from engram_cli.output import Output, Shown, Table
from engram_cli.values import note_folder

if TYPE_CHECKING:
    from engram.engines.constants import ExportedConstants


@taking(out=OUTPUT)
def constants(
    target: ExportedTargetArgument,
    output: OutputOption = None,
    config: ConfigOption = None,
    tokenizer: TokenizerOption = None,
    overwrite: OverwriteOption = False,
    *,
    out: Output,
) -> None:
    """Write what an engine needs to find rows: token map, multipliers, primes, offsets, pad.

    The folder holds constants.json, a C header, and the token map as int32, .npy, JSON, hexadecimal
    words and DSE1. Layouts that hash token ids themselves have no token map: its files are left
    out. engram golden writes vectors to check an engine against.

    Examples:
        $ engram constants ./attached-model -o constants
        $ engram constants config.yaml -o of-a-config --json
    """
    if output is None:
        raise UsageError("constants needs a folder to write.", "Pass -o FOLDER.")
    note_folder(out, target)
    exported = engram.export_constants(
        target, output, config=config, tokenizer=tokenizer, overwrite=overwrite
    )
    out.result(exported.to_dict(), _show(exported))
    options = {"-c": config, "-t": tokenizer}.items()
    given = [word for flag, value in options if value for word in (flag, value)]
    out.next_step(shlex.join(["engram", "golden", target, *given, "-o", f"{output}-golden"]))


def _show(exported: ExportedConstants) -> Shown:
    addresses = exported.memory.addresses
    rows = [(file.name, f"{file.bytes:,}", file.holds) for file in exported.files]
    yield Table(rows, ("file", "bytes", "holds"), left=("file", "holds"))
    yield f"\nConstants of {exported.memory.name} ({addresses.layout.name}) in {exported.output}"
    yield f"fingerprint: {addresses.fingerprint}"
    if addresses.map_sha256 is not None:
        yield f"token map: {addresses.map_sha256} (sha256 as little-endian int32)"
    if exported.left_out:
        yield (
            f"Left out: {', '.join(exported.left_out)}: this layout hashes token ids themselves "
            "and has no token map."
        )
