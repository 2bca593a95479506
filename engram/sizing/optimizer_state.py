"""Bytes of training beside weights and activations: gradients, optimiser state, LoRA adapters."""

from collections.abc import Iterator, Sequence

from engram.backbone import Backbone
from engram.sizing.optimizers import DENSE_VALUES, ROW_STATES, Optimizer
from engram.sizing.resources import MemoryRow, rank_bytes
from engram.sizing.row_training import notes_on_files, rows_of_tables
from engram.sizing.run_options import Place, RunOptions
from engram.sizing.weights import Group, Weights
from engram.sizing.working_state import LORA_RANK, lora_params
from engram.units import plural


def training_rows(
    parts: Sequence[Weights],
    group: Group,
    options: RunOptions,
    place: Place,
    ranks: int,
    context: int,
) -> list[MemoryRow]:
    """Return the lines for gradients and optimiser state of a group of weights.

    Args:
        parts: The weights.
        group: Their group.
        options: The use.
        place: Place of the lines.
        ranks: Ranks that share the tables.
        context: Tokens of a sequence.
    """
    if group == "table" and options.optimizer in ROW_STATES:
        return list(rows_of_tables(parts, options, place, ranks, context))
    values = DENSE_VALUES[_dense(options)]
    gradients, states = [0, 0], [0, 0]  # over all ranks, of one rank
    for part in parts:
        itemsize = part.size_bytes // part.params
        state = part.params * (4 * (itemsize < 4) + values * max(4, itemsize))
        for sums, size in ((gradients, part.size_bytes), (states, state)):
            sums[0] += size
            sums[1] += rank_bytes(part, size, ranks)
    return [
        MemoryRow(
            part=f"{group} {what}",
            params=None,
            size_bytes=size[0],
            rank_bytes=size[1],
            place=place,
            kind="nominal",
            is_table=group == "table",
        )
        for what, size in (("gradients", gradients), ("optimizer state", states))
        if size[0]
    ]


def training_notes(
    options: RunOptions, tables: Place, context: int, has_base: bool
) -> Iterator[str]:
    """Describe an optimiser, and what is trained.

    Args:
        options: The use.
        tables: Place of the tables.
        context: Tokens of a sequence.
        has_base: Whether a base model is counted.
    """
    optimizer, dense = options.optimizer, _dense(options)
    about = (
        f"{dense}: gradients in the weights' dtype, "
        f"{plural(DENSE_VALUES[dense], 'fp32 value')} a parameter, an fp32 master copy of 16-bit "
        "weights"
    )
    if optimizer in ROW_STATES:
        yield f"tables under {optimizer}: {ROW_STATES[optimizer].about}, no master copy"
        yield (
            f"sparse table gradients: {plural(options.batch * context, 'token')} a step, every "
            "look-up a row of its own, in fp32"
        )
        if tables == "disk":
            yield from notes_on_files(options)
        yield f"everything but the tables under {about}"
    else:
        yield about
    if optimizer == "momentum":
        yield "momentum is of all weights; that of tables alone is sparse-momentum"
    if has_base:
        trained = {
            "memory": "the base model is frozen",
            "all": "the base model is trained too",
            "lora": f"the base model is frozen beside adapters of rank {LORA_RANK} (nominal)",
        }
        yield trained[options.train]


def _dense(options: RunOptions) -> Optimizer:
    """Return the optimiser of weights that are not in tables."""
    return "adam" if options.optimizer in ROW_STATES else options.optimizer


def lora_row(backbone: Backbone, place: Place) -> MemoryRow:
    """Return the line for low-rank adapters: float32 values, their gradients, and two of Adam's."""
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
