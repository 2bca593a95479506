"""`engram report`: parameters and bytes of a config, a template or an attached checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engram.config import EngramConfig
from engram.errors import UsageError
from engram.sizing.memory import TOKENS_PER_STEP, MemoryUse, Mode, Optimizer, Place, memory_use
from engram.sizing.weights import Weights, base_weights, config_weights, dense_dtype, total_of
from engram.units import dtype_name, format_bytes, parse_bytes
from engram_cli.options import JsonOption, ModelOption, QuietOption, VerboseOption
from engram_cli.output import Output

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What is reported on: the memory, the rows that its ids reach by layer, and its weights."""

    config: EngramConfig
    hash_rows: dict[int, int]
    weights: Sequence[Weights]
    notes: list[str]


def report(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="Config file, template name, or folder of an attached checkpoint.",
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
    tp: Annotated[int, typer.Option(help="Devices that share the rows of each table.")] = 1,
    device_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory of one device, as 80GiB: does it fit?"),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="dtype of the tables, instead of the config's or the checkpoint's."),
    ] = None,
    tokens_per_step: Annotated[
        int, typer.Option(help="Tokens of a training step on a device, for sparse gradients.")
    ] = TOKENS_PER_STEP,
    freeze_base: Annotated[
        bool, typer.Option("--freeze-base", help="In training: only the memory is trained.")
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Count parameters and bytes by layer and part, and say whether they fit a device.

    Every line is exact, nominal (a stated convention) or estimated. Of a checkpoint only headers
    are read. Exits with 5 when --device-memory is too small.

    Examples:
        $ engram report engram-27b
        $ engram report deepseek-v4.1-flash --tp 4 --device-memory 80GiB
        $ engram report gpt2 --model gpt2 --mode training --optimizer rowwise-adagrad --json
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    found = _find(target, model, dtype)
    use = memory_use(
        found.weights,
        n_columns=found.config.n_columns,
        mode=mode,
        optimizer=optimizer,
        tables=tables,
        ranks=tp,
        device_memory_bytes=None if device_memory is None else parse_bytes(device_memory),
        tokens_per_step=tokens_per_step,
        freeze_base=freeze_base,
    )
    payload = {
        "schema": "engram.report/1",
        "target": target,
        "layout": found.config.layout,
        "mode": mode,
        "optimizer": optimizer if mode == "training" else None,
        "tables": tables,
        "tp": tp,
        **_numbers(found, use),
        "assumptions": [*found.notes, *use.assumptions],
        "device_memory_bytes": use.device_memory_bytes,
        "fits": use.fits,
    }
    out.result(payload, lambda console: _show(console, payload))
    if use.fits is False:
        raise typer.Exit(5)


def _find(target: str, model: str | None, dtype: str | None) -> _Target:
    if Path(target).is_dir():
        if model is not None:
            raise UsageError(f"{target} has its base model: leave --model out.")
        return _checkpoint(Path(target), dtype)
    from engram.sizing.counts import count_params
    from engram.templates import load_config

    config = load_config(target)
    counts = count_params(config)
    weights = config_weights(counts, dtype or config.table_dtype)
    notes = []
    if dtype_name(dtype or config.table_dtype) != weights[-1].dtype:
        notes.append(f"dense parts of the memory in {weights[-1].dtype} (nominal)")
    if model is None:
        notes.append("without the base model: --model adds it")
    else:
        from engram.backbone import load_backbone

        backbone = load_backbone(model)
        weights.append(base_weights(backbone))
        stated = "as its config says" if backbone.dtype else "assumed"
        notes.append(
            f"{backbone.name} in {weights[-1].dtype}, {stated}, without quantisation scales"
        )
    hash_rows = {layer.layer_id: layer.hash_rows for layer in counts.layers}
    return _Target(config=config, hash_rows=hash_rows, weights=weights, notes=notes)


def _checkpoint(folder: Path, dtype: str | None) -> _Target:
    from engram.checkpoints.inspect import inspect_checkpoint

    found = inspect_checkpoint(folder)
    weights, notes = found.weights, ["bytes of weights as the safetensors headers say"]
    if dtype is not None:
        names = {"table": dtype, "dense": dense_dtype(dtype)}
        weights = tuple(
            replace(part.cast(names[part.group]), kind="nominal") if part.group in names else part
            for part in found.weights
        )
        notes = [f"the memory as if it were stored in {dtype_name(dtype)}"]
    return _Target(config=found.config, hash_rows=found.hash_rows, weights=weights, notes=notes)


def _numbers(found: _Target, use: MemoryUse) -> dict[str, Any]:
    (table_params, table_bytes), (dense_params, dense_bytes), (base_params, base_bytes) = (
        total_of(use.weights, group) for group in ("table", "dense", "base")
    )
    has_base = any(part.group == "base" for part in use.weights)
    layers = [_layer(use.weights, layer_id, rows) for layer_id, rows in found.hash_rows.items()]
    row_bytes = {layer["layer_id"]: layer["table_bytes"] // layer["rows"] for layer in layers}
    n_columns = found.config.n_columns
    return {
        "table_dtype": next(part.dtype for part in use.weights if part.group == "table"),
        "layers": layers,
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
            "rank_gpu_bytes": use.rank_bytes("gpu"),
            "rank_cpu_bytes": use.rank_bytes("cpu"),
            "rank_disk_bytes": use.rank_bytes("disk"),
        },
        "reads": {
            "rows_per_token": n_columns * len(layers),
            "rows_per_token_and_layer": n_columns,
            "bytes_per_token": n_columns * sum(row_bytes.values()),
            "bytes_per_token_and_layer": [n_columns * size for size in row_bytes.values()],
        },
    }


def _layer(weights: Sequence[Weights], layer_id: int, hash_rows: int) -> dict[str, Any]:
    parts = [part for part in weights if part.layer_id == layer_id]
    table = next(part for part in parts if part.group == "table")
    return {
        "layer_id": layer_id,
        "rows": table.rows,
        "hash_rows": hash_rows,
        "table_params": table.params,
        "dense_params": total_of(parts, "dense")[0],
        "table_bytes": table.size_bytes,
    }


def _show(console: Console, payload: dict[str, Any]) -> None:
    from rich.table import Table

    totals, ranks = payload["totals"], payload["tp"]
    console.print(
        f"{payload['target']}: layout {payload['layout']}, {payload['mode']}"
        + (f" with {payload['optimizer']}" if payload["optimizer"] else "")
        + f", tables in {payload['table_dtype']} on the {payload['tables']}\n"
    )
    table = Table("part", box=None, pad_edge=False)
    for heading in ("parameters", "bytes", *(["a rank's bytes"] if ranks > 1 else [])):
        table.add_column(heading, justify="right")
    table.add_column("kind")
    table.add_column("place")
    for row in payload["rows"]:
        params = "" if row["params"] is None else f"{row['params']:,}"
        rank = [format_bytes(row["rank_bytes"])] if ranks > 1 else []
        table.add_row(
            row["part"], params, format_bytes(row["bytes"]), *rank, row["kind"], row["place"]
        )
    total_params = totals["engram_params"] + (totals["base_params"] or 0)
    rank_bytes = sum(totals[f"rank_{place}_bytes"] for place in ("gpu", "cpu", "disk"))
    rank = [format_bytes(rank_bytes)] if ranks > 1 else []
    table.add_row("total", f"{total_params:,}", format_bytes(totals["total_bytes"]), *rank, "", "")
    console.print(table)
    reads = payload["reads"]
    console.print(
        f"\nReads per token: {reads['rows_per_token_and_layer']} rows a layer, "
        f"{reads['rows_per_token']} in all = {reads['bytes_per_token']:,} bytes"
    )
    if payload["fits"] is not None:
        console.print(
            f"Fits a device of {format_bytes(payload['device_memory_bytes'])}: "
            f"{'yes' if payload['fits'] else 'no'}, {format_bytes(totals['rank_gpu_bytes'])} "
            f"on the device{'' if totals['base_params'] else ', without the base model'}"
        )
    for assumption in payload["assumptions"]:
        console.print(f"- {assumption}")
