"""Bytes of a memory at inference and in training, by part and place, and whether they fit.

Every line has a label: *exact* (parameters counted, dtype given), *nominal* (exact parameters times
a convention, such as 16 bytes a parameter under Adam) or *estimated* (depends on the assumptions).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engram.backbone import Backbone
from engram.config.engram_config import EngramConfig
from engram.sizing.optimizer_state import lora_row, training_notes, training_rows
from engram.sizing.resources import MemoryRow, Resource, all_fit, rank_bytes
from engram.sizing.row_training import in_file
from engram.sizing.run_options import Place, RunOptions
from engram.sizing.weights import (
    BASE_DTYPE,
    Group,
    Weights,
    dtype_bytes,
    given_base,
    reads_of,
    total_of,
)
from engram.sizing.working_state import activation_bytes, cache_bytes, context_of
from engram.storage.dtypes import FLOATS
from engram.units import plural

ACTIVATIONS = "activations"


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """The places of the bytes of a model with memory.

    Attributes:
        weights: The parts, in the dtypes that they have in use.
        rows: Weights part by part, then gradients and optimiser state by group, then caches.
        assumptions: The assumptions of the numbers, one sentence each.
        tables: Place of the tables.
        options: The use, and the machine.
    """

    weights: tuple[Weights, ...]
    rows: tuple[MemoryRow, ...]
    assumptions: tuple[str, ...]
    tables: Place
    options: RunOptions

    @property
    def total_bytes(self) -> int:
        """Total bytes, each part counted once."""
        return sum(row.size_bytes for row in self.rows)

    def rank_bytes(self, place: Place) -> int:
        """Bytes that one rank has in a place."""
        return sum(row.rank_bytes for row in self.rows if row.place == place)

    @property
    def host_bytes(self) -> int:
        """Bytes in the memory of the host, for all ranks."""
        return max(1, self.options.tp) * self.rank_bytes("cpu")

    @property
    def resources(self) -> dict[str, Resource]:
        """Amounts that are taken of the machine, by place; "iops" for reads of tables on disk."""
        there = self.options
        disk = sum(row.size_bytes for row in self.rows if row.place == "disk")
        found = {
            "gpu": Resource(
                name="device memory",
                unit="bytes",
                used=self.rank_bytes("gpu"),
                capacity=there.device_memory,
            ),
            "cpu": Resource(
                name="host memory", unit="bytes", used=self.host_bytes, capacity=there.host_memory
            ),
            "disk": Resource(name="disk space", unit="bytes", used=disk, capacity=there.disk),
        }
        if self.tables == "disk" and there.tokens_per_second is not None:
            reads = reads_of(self.weights).rate(there.tokens_per_second)["iops"]
            found["iops"] = Resource(
                name="disk reads", unit="reads/s", used=reads, capacity=there.disk_iops
            )
        return found

    @property
    def fits(self) -> bool | None:
        """Whether everything fits; None if nobody said how much there is of what is used."""
        return all_fit(self.resources.values())


def memory_use(
    weights: Sequence[Weights],
    options: RunOptions,
    *,
    backbone: Backbone | None = None,
    config: EngramConfig | None = None,
) -> MemoryUse:
    """Place the bytes of weights, gradients, optimiser state, caches and activations.

    Args:
        weights: Parts of the memory and, if it is known, of the base model.
        options: The use, and the machine. Of the places that tables may be in, they go to the first
            where everything fits; if it fits nowhere, to the first that is not known to be too
            small, or to the one where least is missing.
        backbone: The base model; without it neither caches nor activations are counted.
        config: The memory, for its activations.
    """
    if options.base_bytes is not None:
        base_params, _ = total_of(weights, "base")
        own = (part for part in weights if part.group != "base")
        weights = [*own, given_base(options.base_bytes, base_params)]
    trained = _trained(options)
    quantised = {
        part.part: part
        for part in weights
        if part.group in trained and part.dtype not in (None, *FLOATS.values())
    }
    notes = []
    if quantised:
        weights = [part.cast("bfloat16") if part.part in quantised else part for part in weights]
        stored = ", ".join(sorted({str(part.dtype) for part in quantised.values()}))
        notes.append(f"weights stored as {stored} are trained in bfloat16")
    placed = [_placed(weights, options, home, backbone, config, notes) for home in options.homes]
    return min(placed, key=lambda use: ({True: 0, None: 1, False: 2}[use.fits], _shortfall(use)))


def _shortfall(use: MemoryUse) -> float:
    """Return by how much most is missing of anything, as a part of what there is."""
    return max(it.missing / max(1, it.capacity or 1) for it in use.resources.values())


def _trained(options: RunOptions) -> tuple[Group, ...]:
    """Return the groups of weights that are trained; none at inference."""
    if options.mode == "inference":
        return ()
    return ("table", "dense", "base") if options.train == "all" else ("table", "dense")


def _placed(
    weights: Sequence[Weights],
    options: RunOptions,
    tables: Place,
    backbone: Backbone | None,
    config: EngramConfig | None,
    notes: Sequence[str],
) -> MemoryUse:
    """Place everything, the tables in the place that is given."""
    computes: Place = "gpu" if options.tp else "cpu"
    ranks = max(1, options.tp)
    if tables == "disk" and options.mode == "training":
        weights = [in_file(part, options) if part.group == "table" else part for part in weights]
    rows = [
        MemoryRow(
            part=part.part,
            params=part.params,
            size_bytes=part.size_bytes,
            rank_bytes=rank_bytes(part, part.size_bytes, ranks),
            place=tables if part.group == "table" else computes,
            kind=part.kind,
            is_table=part.group == "table",
        )
        for part in weights
    ]
    context = context_of(options, backbone)
    for group in _trained(options):
        parts = [part for part in weights if part.group == group and part.params]
        place = tables if group == "table" else computes
        rows += training_rows(parts, group, options, place, ranks, context)
    has_decoder = backbone is not None and backbone.decoder is not None
    if backbone is not None and has_decoder:
        rows += _beside(backbone, config, options, computes)
        if options.mode == "training" and options.train == "lora":
            rows.append(lora_row(backbone, computes))
    has_base = any(part.group == "base" for part in weights)
    return MemoryUse(
        weights=tuple(weights),
        rows=tuple(rows),
        assumptions=(*notes, *_assumptions(options, tables, context, has_base, has_decoder)),
        tables=tables,
        options=options,
    )


def _assumptions(
    options: RunOptions, tables: Place, context: int, has_base: bool, has_decoder: bool
) -> Iterator[str]:
    """List what the numbers rest on."""
    if options.mode == "training":
        yield from training_notes(options, tables, context, has_base)
    if has_decoder:
        gaps = "a tenth for gaps between tensors"
        if options.mode == "inference":
            gaps += ", and half of the cache for those that it leaves as it grows"
        sequences = plural(options.batch, "sequence")
        yield f"{sequences} of {context:,} tokens; activations with {gaps} (estimated)"
        yield "not counted: the framework"
    else:
        has_adapters = has_base and options.mode == "training" and options.train == "lora"
        more = "adapters of the base, " if has_adapters else ""
        yield f"not counted: {more}activations, key-value cache, the framework"
    if options.tp > 1:
        yield (
            f"{options.tp} ranks: table rows split ceil(rows / {options.tp}), base and its cache "
            "split evenly (nominal), dense parts of the memory whole on every rank"
        )
        if options.host_memory is not None:
            yield "all ranks are on one host"


def _beside(
    backbone: Backbone, config: EngramConfig | None, options: RunOptions, place: Place
) -> list[MemoryRow]:
    """Lines for caches and activations of a model."""
    element_bytes = dtype_bytes(backbone.float_dtype or BASE_DTYPE)
    ranks = max(1, options.tp)
    sizes = {ACTIVATIONS: activation_bytes(backbone, config, options, element_bytes)}
    if options.mode == "inference":
        sizes = {"key-value cache": cache_bytes(backbone, options, element_bytes), **sizes}
    return [
        MemoryRow(
            part=part,
            params=None,
            size_bytes=size,
            rank_bytes=-(-size // ranks) if part == "key-value cache" else size,
            place=place,
            kind="estimated",
            is_table=False,
        )
        for part, size in sizes.items()
    ]
