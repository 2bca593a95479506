"""`engram report`: parameters and bytes of a config, a template or a checkpoint with a memory."""

from __future__ import annotations

from typing import Annotated

import typer

import engram
from engram.sizing.report_options import Mode, Optimizer, Place, ReportOptions
from engram_cli.config_name import note_folder
from engram_cli.options import OUTPUT, ModelOption, RevisionOption, TableDtypeOption
from engram_cli.output import Output
from engram_cli.taking import taking
from engram_cli.values import read_bytes

_REPORT = {
    "mode": Annotated[
        Mode,
        typer.Option(help="Weights alone, or with gradients and optimizer state."),
    ],
    "optimizer": Annotated[
        Optimizer,
        typer.Option(help="In training; the last two are for tables, with adam for the rest."),
    ],
    "tables": Annotated[Place, typer.Option(help="Where the tables are.")],
    "tp": Annotated[int, typer.Option(min=1, help="Devices that share the rows of each table.")],
    "device_memory": Annotated[
        int | None,
        typer.Option(
            metavar="SIZE", parser=read_bytes, help="Memory of one device, as 80GiB: does it fit?"
        ),
    ],
    "host_memory": Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=read_bytes,
            help="Memory of the host of all devices, as 1TiB: does it fit?",
        ),
    ],
    "tokens_per_second": Annotated[
        int | None,
        typer.Option(metavar="COUNT", min=1, help="Speed: reads and bytes a second that it takes."),
    ],
    "dtype": TableDtypeOption,
    "tokens_per_step": Annotated[
        int,
        typer.Option(min=1, help="Tokens of a training step on a device, for sparse gradients."),
    ],
    "freeze_base": Annotated[
        bool, typer.Option("--freeze-base", help="In training: only the memory is trained.")
    ],
}


@taking(options=_REPORT, out=OUTPUT)
def report(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="Config file, template name, folder or safetensors file of a checkpoint with a "
            "memory, or hub id of one.",
        ),
    ],
    model: ModelOption = None,
    *,
    options: ReportOptions,
    revision: RevisionOption = None,
    out: Output,
) -> None:
    """Count parameters and bytes by layer and part, reads per token, and say whether they fit.

    Every line is exact, nominal (a stated convention) or estimated. Of a checkpoint only config and
    headers are read, on the hub too: attached memories and adapters, DeepSeek-V4.1, Qwen's
    per-layer n-gram embedding, LongCat, Gemma 3n and 4, the reference demo's state dict. Exits with
    5 when --device-memory or --host-memory is too small.

    Examples:
        $ engram report engram-27b
        $ engram report deepseek-v4.1-flash --tp 4 --device-memory 80GiB
        $ engram report deepseek-v4.1-flash --tables disk --tokens-per-second 10000
        $ engram report gpt2 --model gpt2 --mode training --optimizer rowwise-adagrad --json
    """
    from engram_cli.report_text import show

    note_folder(out, target)
    found = engram.report(target, model, options, revision=revision)
    answer = found.to_dict()
    out.result(answer, lambda console: show(console, answer))
    if found.fits is False:
        raise typer.Exit(5)
