"""Bytes of a memory at inference and in training, by part and place, and whether they fit.

Every line has a label: *exact* (parameters counted, dtype given), *nominal* (exact parameters times
a convention, such as 16 bytes a parameter under Adam) or *estimated* (depends on the assumptions).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engram.config.table_dtype import INFERENCE_DTYPES
from engram.errors import UsageError
from engram.sizing.report_options import Place, ReportOptions
from engram.sizing.weights import Group, Kind, Weights
from engram.units import plural

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
class MemoryUse:
    """The places of the bytes of a model with memory.

    Attributes:
        weights: The parts, in the dtypes that they have in use.
        rows: Weights part by part, then gradients and optimiser state by group.
        assumptions: The assumptions of the numbers, one sentence each.
        options: The use, the places, and the memory that there is.
    """

    weights: tuple[Weights, ...]
    rows: tuple[MemoryRow, ...]
    assumptions: tuple[str, ...]
    options: ReportOptions

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
        return self.options.tp * self.rank_bytes("cpu")

    @property
    def fits_device(self) -> bool | None:
        """Whether one rank's GPU part fits the device; None if its memory was not given."""
        there = self.options.device_memory
        return None if there is None else self.rank_bytes("gpu") <= there

    @property
    def fits_host(self) -> bool | None:
        """Whether all ranks' parts fit the host; None if its memory was not given."""
        there = self.options.host_memory
        return None if there is None else self.host_bytes <= there

    @property
    def fits(self) -> bool | None:
        """Whether everything fits; None if the size of a used place was not given."""
        verdicts = {"gpu": self.fits_device, "cpu": self.fits_host}
        if False in verdicts.values():
            return False
        used = {row.place for row in self.rows if row.rank_bytes}
        return None if any(verdicts.get(place) is None for place in used) else True


def memory_use(weights: Sequence[Weights], options: ReportOptions) -> MemoryUse:
    """Place the bytes of weights, gradients and optimiser state.

    The optimisers adam, momentum and sgd keep dense state for every parameter; rowwise-adagrad and
    sparse-adam apply to tables, with adam for everything else.

    Args:
        weights: Parts of the memory and, if it is known, of the base model.
        options: The use, the places, and the memory that there is.

    Raises:
        UsageError: Tables on disk are to be trained.
    """
    is_training, tables, ranks = options.mode == "training", options.tables, options.tp
    if is_training and tables == "disk":
        raise UsageError(
            "Tables on disk cannot be trained.",
            "Use --tables gpu or --tables cpu.",
        )
    assumptions = ["not counted: activations, KV cache, framework"]
    quantised = {part.dtype for part in weights} & {*INFERENCE_DTYPES}
    if is_training and quantised:
        weights = [part.cast("bfloat16") if part.dtype in quantised else part for part in weights]
        stored = ", ".join(sorted(map(str, quantised)))
        assumptions.append(f"weights stored as {stored} are trained in bfloat16")
    rows = [
        MemoryRow(
            part=part.part,
            params=part.params,
            size_bytes=part.size_bytes,
            rank_bytes=_rank_bytes(part, part.size_bytes, ranks),
            place=tables if part.group == "table" else "gpu",
            kind=part.kind,
            is_table=part.group == "table",
        )
        for part in weights
    ]
    if is_training:
        trained: tuple[Group, ...] = ("table", "dense", "base")
        for group in trained[:2] if options.freeze_base else trained:
            parts = [part for part in weights if part.group == group and part.params]
            rows += _training_rows(parts, group, options)
        assumptions += _training_notes(options)
        if any(part.group == "base" for part in weights):
            state = "frozen" if options.freeze_base else "trained too"
            assumptions.append(f"the base model is {state}")
    if ranks > 1:
        assumptions.append(
            f"{ranks} ranks: table rows split ceil(rows / {ranks}), base split evenly (nominal), "
            "dense parts of the memory whole on every rank"
        )
        if options.host_memory is not None:
            assumptions.append("all ranks are on one host")
    return MemoryUse(
        weights=tuple(weights),
        rows=tuple(rows),
        assumptions=tuple(assumptions),
        options=options,
    )


def _training_notes(options: ReportOptions) -> list[str]:
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
        f"sparse table gradients: {plural(options.tokens_per_step, 'token')} a step, every look-up "
        "a row of its own",
        f"everything but the tables under {note}",
    ]


def _rank_bytes(part: Weights, size_bytes: int, ranks: int) -> int:
    """Return one rank's bytes: whole rows of a table, an even part of the base, all of the rest."""
    if part.rows:
        return -(-part.rows // ranks) * (size_bytes // part.rows)
    return -(-size_bytes // ranks) if part.group == "base" else size_bytes


def _training_rows(
    parts: Sequence[Weights], group: Group, options: ReportOptions
) -> list[MemoryRow]:
    optimizer, ranks = options.optimizer, options.tp
    sparse = group == "table" and optimizer not in _DENSE_STATES
    dense_states = _DENSE_STATES.get(optimizer, _DENSE_STATES["adam"])
    gradients, states = [0, 0], [0, 0]  # over all ranks, of one rank
    for part in parts:
        if sparse:
            state = part.rows * 4 if optimizer == "rowwise-adagrad" else 2 * part.size_bytes
            row = part.size_bytes // part.rows + _INDEX_BYTES
            touched = options.tokens_per_step * part.reads
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
            place=options.tables if group == "table" else "gpu",
            kind=kind,
            is_table=group == "table",
        )
        for what, size, kind in zip(
            ("gradients", "optimizer state"), (gradients, states), kinds, strict=True
        )
        if size[0]
    ]
