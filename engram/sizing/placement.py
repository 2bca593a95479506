"""Bytes of a memory at inference and in training, by part and place, and whether they fit.

Every line has a label: *exact* (parameters counted, dtype given), *nominal* (exact parameters times
a convention, such as 16 bytes a parameter under Adam) or *estimated* (depends on the assumptions).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from engram.backbone import Backbone
from engram.config.engram_config import EngramConfig
from engram.config.table_dtype import INFERENCE_DTYPES
from engram.sizing.run_options import Place, RunOptions
from engram.sizing.weights import (
    BASE_DTYPE,
    Group,
    Kind,
    Weights,
    dtype_bytes,
    given_base,
    reads_of,
)
from engram.sizing.working_state import (
    LORA_RANK,
    activation_bytes,
    cache_bytes,
    context_of,
    lora_params,
)
from engram.units import format_bytes, plural

# fp32 values per parameter of a dense optimiser, besides the fp32 master copy of a 16-bit weight.
_DENSE_STATES = {"adam": 2, "momentum": 1, "sgd": 0}
# State of the optimisers that touch only the rows that were read.
_SPARSE_STATES = {
    "rowwise-adagrad": "one fp32 a row",
    "sparse-adam": "two values a parameter in the table's dtype",
}
_INDEX_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """One line of a byte report.

    Attributes:
        part: Name of the part.
        params: Parameters of weights; None for gradients and optimiser state.
        size_bytes: Bytes over all ranks, each part counted once.
        rank_bytes: Bytes that one rank holds.
        place: Place of the bytes.
        kind: How exactly they are known.
        is_table: Whether they belong to tables, as weights, gradients or optimiser state.
    """

    part: str
    params: int | None
    size_bytes: int
    rank_bytes: int
    place: Place
    kind: Kind
    is_table: bool


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One thing that a memory takes, and how much of it there is.

    Attributes:
        name: Such as "device memory".
        unit: bytes, parameters, or reads a second.
        used: Amount that is taken.
        capacity: Amount that there is; None if nobody said.
    """

    name: str
    unit: Literal["bytes", "parameters", "reads/s"]
    used: int
    capacity: int | None

    @property
    def fits(self) -> bool | None:
        """Whether there is enough; None if nobody said how much there is."""
        if not self.used:
            return True
        return None if self.capacity is None else self.used <= self.capacity

    @property
    def missing(self) -> int:
        """Amount that there is too little; 0 if it fits, or if nobody said."""
        return 0 if self.capacity is None else max(0, self.used - self.capacity)

    def shown(self, amount: int | None) -> str:
        """Return an amount with its unit, for people."""
        if amount is None:
            return "unknown"
        return format_bytes(amount) if self.unit == "bytes" else f"{amount:,} {self.unit}"


def all_fit(resources: Iterable[Resource]) -> bool | None:
    """Return whether there is enough of all of them; None where that is not known."""
    answers = [resource.fits for resource in resources]
    if False in answers:
        return False
    return None if None in answers else True


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
            small.
        backbone: The base model; without it neither caches nor activations are counted.
        config: The memory, for its activations.
    """
    if options.base_bytes is not None:
        weights = [*weights, given_base(options.base_bytes)]
    quantised = {part.dtype for part in weights} & {*INFERENCE_DTYPES}
    notes = []
    if options.mode == "training" and quantised:
        weights = [part.cast("bfloat16") if part.dtype in quantised else part for part in weights]
        stored = ", ".join(sorted(map(str, quantised)))
        notes.append(f"weights stored as {stored} are trained in bfloat16")
    placed = [_placed(weights, options, home, backbone, config, notes) for home in options.homes]
    return min(placed, key=lambda use: {True: 0, None: 1, False: 2}[use.fits])


def _placed(
    weights: Sequence[Weights],
    options: RunOptions,
    tables: Place,
    backbone: Backbone | None,
    config: EngramConfig | None,
    notes: Sequence[str],
) -> MemoryUse:
    computes: Place = "gpu" if options.tp else "cpu"
    ranks = max(1, options.tp)
    rows = [
        MemoryRow(
            part=part.part,
            params=part.params,
            size_bytes=part.size_bytes,
            rank_bytes=_rank_bytes(part, part.size_bytes, ranks),
            place=tables if part.group == "table" else computes,
            kind=part.kind,
            is_table=part.group == "table",
        )
        for part in weights
    ]
    assumptions = list(notes)
    has_base = any(part.group == "base" for part in weights)
    context = context_of(options, backbone)
    if options.mode == "training":
        groups: list[Group] = ["table", "dense"]
        if options.train == "all":
            groups.append("base")
        for group in groups:
            parts = [part for part in weights if part.group == group and part.params]
            place = tables if group == "table" else computes
            rows += _training_rows(parts, group, options, place, ranks, context)
        if options.train == "lora" and backbone is not None:
            rows.append(_lora_row(backbone, computes))
        assumptions += _training_notes(options, context)
        if has_base:
            trained = {
                "memory": "the base model is frozen",
                "all": "the base model is trained too",
                "lora": f"the base model is frozen beside adapters of rank {LORA_RANK} (nominal)",
            }
            assumptions.append(trained[options.train])
    if backbone is not None and backbone.decoder is not None:
        rows += _beside(backbone, config, options, computes)
        assumptions.append(
            f"{plural(options.batch, 'sequence')} of {context:,} tokens; activations with a tenth "
            "for gaps between tensors (estimated)"
        )
        assumptions.append("not counted: the framework")
    else:
        assumptions.append("not counted: activations, key-value cache, the framework")
    if options.tp > 1:
        assumptions.append(
            f"{options.tp} ranks: table rows split ceil(rows / {options.tp}), base and its cache "
            "split evenly (nominal), dense parts of the memory whole on every rank"
        )
        if options.host_memory is not None:
            assumptions.append("all ranks are on one host")
    return MemoryUse(
        weights=tuple(weights),
        rows=tuple(rows),
        assumptions=tuple(assumptions),
        tables=tables,
        options=options,
    )


def _beside(
    backbone: Backbone, config: EngramConfig | None, options: RunOptions, place: Place
) -> list[MemoryRow]:
    """Lines for caches and activations of a model."""
    element_bytes = dtype_bytes(backbone.float_dtype or BASE_DTYPE)
    ranks = max(1, options.tp)
    sizes = {"activations": activation_bytes(backbone, config, options, element_bytes)}
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


def _lora_row(backbone: Backbone, place: Place) -> MemoryRow:
    """Line for low-rank adapters: float32 values, their gradients, and two of Adam's."""
    size = 4 * 4 * lora_params(backbone)
    return MemoryRow(
        part="adapters of the base, trained",
        params=lora_params(backbone),
        size_bytes=size,
        rank_bytes=size,
        place=place,
        kind="nominal",
        is_table=False,
    )


def _training_notes(options: RunOptions, context: int) -> list[str]:
    optimizer = options.optimizer
    dense = optimizer if optimizer in _DENSE_STATES else "adam"
    note = (
        f"{dense}: gradients in the weights' dtype, "
        f"{plural(_DENSE_STATES[dense], 'fp32 value')} a parameter, an fp32 master copy of 16-bit "
        "weights"
    )
    if optimizer == dense:
        return [note]
    return [
        f"tables under {optimizer}: {_SPARSE_STATES[optimizer]}, no master copy",
        f"sparse table gradients: {plural(options.batch * context, 'token')} a step, every look-up "
        "a row of its own",
        f"everything but the tables under {note}",
    ]


def _rank_bytes(part: Weights, size_bytes: int, ranks: int) -> int:
    """Return one rank's bytes: whole rows of a table, an even part of the base, all of the rest."""
    if part.rows:
        return -(-part.rows // ranks) * (size_bytes // part.rows)
    return -(-size_bytes // ranks) if part.group == "base" else size_bytes


def _training_rows(
    parts: Sequence[Weights],
    group: Group,
    options: RunOptions,
    place: Place,
    ranks: int,
    context: int,
) -> list[MemoryRow]:
    optimizer, tokens = options.optimizer, options.batch * context
    sparse = group == "table" and optimizer not in _DENSE_STATES
    dense_states = _DENSE_STATES.get(optimizer, _DENSE_STATES["adam"])
    gradients, states = [0, 0], [0, 0]  # over all ranks, of one rank
    for part in parts:
        if sparse:
            state = part.rows * 4 if optimizer == "rowwise-adagrad" else 2 * part.size_bytes
            row, touched = part.size_bytes // part.rows + _INDEX_BYTES, tokens * part.reads
            gradients[0] += min(touched, part.rows) * row
            gradients[1] += min(touched, -(-part.rows // ranks)) * row
        else:
            itemsize = part.size_bytes // part.params
            state = part.params * (4 * (itemsize < 4) + dense_states * max(4, itemsize))
            gradients[0] += part.size_bytes
            gradients[1] += _rank_bytes(part, part.size_bytes, ranks)
        states[0] += state
        states[1] += _rank_bytes(part, state, ranks)
    kinds: tuple[Kind, Kind] = ("estimated" if sparse else "nominal", "nominal")
    return [
        MemoryRow(
            part=f"{group} {what}",
            params=None,
            size_bytes=size[0],
            rank_bytes=size[1],
            place=place,
            kind=kind,
            is_table=group == "table",
        )
        for what, size, kind in zip(
            ("gradients", "optimizer state"), (gradients, states), kinds, strict=True
        )
        if size[0]
    ]
