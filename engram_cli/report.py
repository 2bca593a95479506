"""`engram report`: parameters and bytes of a config, a template or a checkpoint with a memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from engram.sizing.placement import (
    OPTIMIZERS,
    PLACES,
    TOKENS_PER_STEP,
    MemoryUse,
    Mode,
    Optimizer,
    Place,
    memory_use,
)
from engram.sizing.reads import rate_of, reads_of
from engram.sizing.weights import total_of
from engram_cli.config_name import note_folder
from engram_cli.options import (
    OUTPUT,
    ModelOption,
    RevisionOption,
    TableDtypeOption,
)
from engram_cli.output import Output
from engram_cli.report_target import Target, find_target
from engram_cli.taking import taking
from engram_cli.values import read_bytes


@taking(out=OUTPUT)
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
    mode: Annotated[
        Mode,
        typer.Option(help="Weights alone, or with gradients and optimizer state."),
    ] = "inference",
    optimizer: Annotated[
        Optimizer,
        typer.Option(help="In training; the last two are for tables, with adam for the rest."),
    ] = "adam",
    tables: Annotated[Place, typer.Option(help="Where the tables are.")] = "gpu",
    tp: Annotated[int, typer.Option(min=1, help="Devices that share the rows of each table.")] = 1,
    device_memory: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE", parser=read_bytes, help="Memory of one device, as 80GiB: does it fit?"
        ),
    ] = None,
    host_memory: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=read_bytes,
            help="Memory of the host of all devices, as 1TiB: does it fit?",
        ),
    ] = None,
    tokens_per_second: Annotated[
        int | None,
        typer.Option(metavar="COUNT", min=1, help="Speed: reads and bytes a second that it takes."),
    ] = None,
    dtype: TableDtypeOption = None,
    tokens_per_step: Annotated[
        int,
        typer.Option(min=1, help="Tokens of a training step on a device, for sparse gradients."),
    ] = TOKENS_PER_STEP,
    freeze_base: Annotated[
        bool, typer.Option("--freeze-base", help="In training: only the memory is trained.")
    ] = False,
    revision: RevisionOption = None,
    *,
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
    note_folder(out, target)
    found = find_target(target, model=model, dtype=dtype, revision=revision)
    use_of = partial(
        memory_use,
        found.weights,
        device_memory_bytes=device_memory,
        host_memory_bytes=host_memory,
        tokens_per_step=tokens_per_step,
        freeze_base=freeze_base,
    )
    use = use_of(mode=mode, optimizer=optimizer, tables=tables, ranks=tp)
    payload = {
        "schema": "engram.report/1",
        "target": target,
        "target_kind": found.kind,
        "layout": found.layout,
        "title": found.title,
        "mode": mode,
        "optimizer": optimizer if mode == "training" else None,
        "tables": tables,
        "tp": tp,
        **_numbers(found, use),
        "reads": _reads(found, tokens_per_second),
        "homes": [
            _home(use_of(mode=mode, optimizer=optimizer, tables=place, ranks=tp), place)
            for place in PLACES
            if not (mode == "training" and place == "disk")
        ],
        "training": _training(use_of, "cpu" if tables == "cpu" else "gpu", tp),
        "assumptions": [*found.notes, *use.assumptions],
        "device_memory_bytes": use.device_memory_bytes,
        "host_memory_bytes": use.host_memory_bytes,
        "fits_device": use.fits_device,
        "fits_host": use.fits_host,
        "fits": use.fits,
    }
    from engram_cli.report_text import show

    out.result(payload, lambda console: show(console, payload))
    if use.fits is False:
        raise typer.Exit(5)


def _numbers(found: Target, use: MemoryUse) -> dict[str, Any]:
    (table_params, table_bytes), (dense_params, dense_bytes), (base_params, base_bytes) = (
        total_of(use.weights, group) for group in ("table", "dense", "base")
    )
    has_base = any(part.group == "base" for part in use.weights)
    ids = [part.layer_id for part in use.weights if part.group != "base"]
    layers = dict.fromkeys([*found.hash_rows, *ids])
    dtypes = {part.dtype for part in use.weights if part.group == "table"}
    return {
        "table_dtype": dtypes.pop() if len(dtypes) == 1 else None,
        "layers": [_layer(use, layer_id, found.hash_rows.get(layer_id, 0)) for layer_id in layers],
        "rows": [
            {
                "part": row.part,
                "params": row.params,
                "bytes": row.size_bytes,
                "kind": row.kind,
                "place": row.place,
                "rank_bytes": row.rank_bytes,
            }
            for row in use.rows
        ],
        "totals": {
            "table_params": table_params,
            "dense_params": dense_params,
            "engram_params": table_params + dense_params,
            "base_params": base_params if has_base else None,
            "table_bytes": table_bytes,
            "dense_bytes": dense_bytes,
            "base_bytes": base_bytes if has_base else None,
            "total_bytes": use.total_bytes,
            "rank_table_bytes": sum(row.rank_bytes for row in use.rows if row.is_table),
            "rank_gpu_bytes": use.rank_bytes("gpu"),
            "rank_cpu_bytes": use.rank_bytes("cpu"),
            "rank_disk_bytes": use.rank_bytes("disk"),
        },
    }


def _layer(use: MemoryUse, layer_id: int | None, hash_rows: int) -> dict[str, Any]:
    parts = [part for part in use.weights if part.layer_id == layer_id and part.group != "base"]
    table_params, table_bytes = total_of(parts, "table")
    return {
        "layer_id": layer_id,
        "rows": sum(part.rows for part in parts),
        "hash_rows": hash_rows,
        "table_params": table_params,
        "dense_params": total_of(parts, "dense")[0],
        "table_bytes": table_bytes,
    }


def _reads(found: Target, tokens_per_second: int | None) -> dict[str, Any]:
    reads = reads_of(found.weights)
    by_layer = [
        reads_of([part for part in found.weights if part.layer_id == layer_id])
        for layer_id in found.hash_rows
    ]
    pages = reads.pages
    return {
        "rows_per_token": reads.rows,
        "rows_per_token_and_layer": max((layer.rows for layer in by_layer), default=0),
        "bytes_per_token": reads.size_bytes,
        "bytes_per_token_and_layer": [layer.size_bytes for layer in by_layer],
        "disk_reads_per_token": pages.reads if pages else reads.rows,
        "disk_pages_per_token": {
            "least": pages.least,
            "mean": pages.mean,
            "most": pages.most,
            "kind": "exact" if pages.exact else "estimated",
        }
        if pages
        else None,
        "rate": vars(rate_of(reads, tokens_per_second)) if tokens_per_second else None,
    }


def _home(use: MemoryUse, place: Place) -> dict[str, Any]:
    """What each home of the tables needs, on one rank and on the host of all."""
    return {
        "tables": place,
        "rank_gpu_bytes": use.rank_bytes("gpu"),
        "rank_cpu_bytes": use.rank_bytes("cpu"),
        "rank_disk_bytes": use.rank_bytes("disk"),
        "host_bytes": use.host_bytes,
        "fits_device": use.fits_device,
        "fits_host": use.fits_host,
        "fits": use.fits,
    }


def _training(use_of: Callable[..., MemoryUse], tables: Place, ranks: int) -> list[dict[str, Any]]:
    """Bytes of training under every optimiser, on one device and on each of the ranks."""
    found = []
    for optimizer in OPTIMIZERS:
        whole, shared = (
            use_of(mode="training", optimizer=optimizer, tables=tables, ranks=count)
            for count in (1, ranks)
        )
        table_rows = [row for row in whole.rows if row.is_table]
        kinds = {row.kind for row in whole.rows}
        found.append(
            {
                "optimizer": optimizer,
                "table_bytes": sum(row.size_bytes for row in table_rows),
                "table_state_bytes": sum(
                    row.size_bytes for row in table_rows if row.part == "table optimizer state"
                ),
                "total_bytes": whole.total_bytes,
                "rank_bytes": sum(map(shared.rank_bytes, PLACES)),
                "kind": "estimated" if "estimated" in kinds else "nominal",
            }
        )
    return found
