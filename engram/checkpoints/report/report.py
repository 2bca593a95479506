"""`report`: parameters and bytes of a config or a checkpoint, and whether they fit."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engram.arguments import checked
from engram.backbone import Backbone
from engram.checkpoints.report.report_target import find_target
from engram.config.engram_config import EngramConfig
from engram.sizing.optimizers import OPTIMIZERS, ROW_STATES
from engram.sizing.placement import MemoryUse, memory_use
from engram.sizing.run_options import PLACES, Place, ReportOptions
from engram.sizing.weights import GROUP_NAMES, Contents, reads_of, total_of


@dataclass(frozen=True, repr=False)
class Report:
    """Result of `report`.

    Attributes:
        name: The target, as it was named.
        target: What it consists of.
        options: What was asked for.
        use: The bytes, placed as asked for.
    """

    name: str
    target: Contents
    options: ReportOptions
    use: MemoryUse

    @property
    def fits(self) -> bool | None:
        """Whether all of it fits; None when a place that is used has a size that nobody gave."""
        return self.use.fits

    def __repr__(self) -> str:
        fits = {True: ", fits", False: ", does not fit", None: ""}[self.fits]
        return f"<Report on {self.name}: {self.use.total_bytes:,} bytes{fits}>"

    def homes_by_part(self) -> list[dict[str, Any]]:
        """Return a rank's bytes for each place that tables may be in, by place and part.

        Parts are groups of weights, then gradients, optimiser state, caches and activations.
        """
        groups = {part.part: GROUP_NAMES[part.group] for part in self.use.weights}
        sizes: dict[tuple[Place, Place, str], int] = {}
        for tables in self.options.table_places:
            for row in _use(self.target, replace(self.options, tables=tables)).rows:
                key = (tables, row.place, groups.get(row.part, row.part))
                sizes[key] = sizes.get(key, 0) + row.rank_bytes
        return [
            {"tables": tables, "place": place, "part": part, "rank_bytes": size}
            for (tables, place, part), size in sizes.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram report --json`` prints."""
        found, options, use = self.target, self.options, self.use
        mode = options.mode
        return {
            "schema": "engram.report/1",
            "target": self.name,
            "target_kind": found.kind,
            "layout": found.layout,
            "title": found.title,
            "mode": mode,
            "optimizer": options.optimizer if mode == "training" else None,
            "train": options.train if mode == "training" else None,
            "tables": use.tables,
            "tp": options.tp,
            **_numbers(found, use),
            "reads": _reads(found, use),
            "homes": [
                _home(_use(found, replace(options, tables=place))) for place in options.table_places
            ],
            "training": _training(found, options),
            "assumptions": [*found.notes, *use.assumptions],
            "device_memory_bytes": options.device_memory,
            "host_memory_bytes": options.host_memory,
            "disk_bytes": options.disk,
            "disk_iops": options.disk_iops,
            **_fits(use),
            "gguf": found.gguf,
        }


@checked()
def report(
    target: str | Path | EngramConfig,
    model: str | Path | Backbone | None = None,
    options: ReportOptions | None = None,
    *,
    revision: str | None = None,
) -> Report:
    """Count parameters and bytes by layer and part; of a checkpoint only headers are read.

    Args:
        target: A config, its file, or the name of a template; or a folder or safetensors file of a
            checkpoint with a memory, a GGUF file with one, or the hub id of a checkpoint.
        model: Base model of a config or an adapter, see `engram.load_backbone`.
        options: Place of the tables, training, and the memory that there is.
        revision: Branch, tag or commit on the hub.

    Returns:
        The report; `to_dict()` is what ``engram report --json`` prints.

    Raises:
        UsageError: Options that exclude each other, or do not go with the target.
        MissingFileError: There is no such target or model.
        InputError: The target has no memory, or is damaged.

    Examples:
        >>> import engram
        >>> fits = engram.ReportOptions(device_memory=80 * 2**30, tp=4)
        >>> engram.report("engram-27b", options=fits).fits
        True
    """
    options = ReportOptions() if options is None else options
    found = find_target(target, model=model, options=options, revision=revision)
    use = _use(found, options)
    name = "config" if isinstance(target, EngramConfig) else str(target)
    return Report(name, found, options, use)


def _use(found: Contents, options: ReportOptions) -> MemoryUse:
    return memory_use(found.weights, options, backbone=found.backbone, config=found.config)


def _fits(use: MemoryUse) -> dict[str, bool | None]:
    """Whether there is enough of each thing; None where its size was not given."""
    known = {name: None if it.capacity is None else it.fits for name, it in use.resources.items()}
    return {
        "fits_device": known["gpu"],
        "fits_host": known["cpu"],
        "fits_disk": known["disk"],
        "fits_disk_reads": known.get("iops"),
        "fits": use.fits,
    }


def _numbers(found: Contents, use: MemoryUse) -> dict[str, Any]:
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


def _reads(found: Contents, use: MemoryUse) -> dict[str, Any]:
    reads, tokens_per_second = reads_of(use.weights), use.options.tokens_per_second
    by_layer = [
        reads_of([part for part in use.weights if part.layer_id == layer_id])
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
        "rate": reads.rate(tokens_per_second) if tokens_per_second else None,
    }


def _home(use: MemoryUse) -> dict[str, Any]:
    """Bytes of each place of the tables, on one rank and on the host of all."""
    return {
        "tables": use.tables,
        "rank_gpu_bytes": use.rank_bytes("gpu"),
        "rank_cpu_bytes": use.rank_bytes("cpu"),
        "rank_disk_bytes": use.rank_bytes("disk"),
        "host_bytes": use.host_bytes,
        **_fits(use),
    }


def _training(target: Contents, options: ReportOptions) -> list[dict[str, Any]]:
    """Bytes of training under every optimiser, on one device and on each of the ranks.

    Of tables on disk, under those that they can be trained with.
    """
    if target.kind == "gguf":
        return []  # engines read it, nothing trains it
    if options.base_bytes is not None and options.train == "all":
        return []  # the bytes of a base do not tell what training it takes
    on_disk = options.mode == "training" and options.tables == "disk"
    computes: Place = "cpu" if options.tables == "cpu" or not options.tp else "gpu"
    tables: Place = "disk" if on_disk else computes
    # The weights have their dtype already.
    trained = replace(options, mode="training", tables=tables, dtype=None)
    found = []
    for optimizer in ROW_STATES if on_disk else OPTIMIZERS:
        whole, shared = (
            _use(target, replace(trained, optimizer=optimizer, tp=count))
            for count in (min(1, options.tp), options.tp)
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
