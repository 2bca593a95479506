"""Bytes of training beside weights and activations: gradients, optimiser state, LoRA adapters."""

from collections.abc import Sequence

from engram.backbone import Backbone
from engram.sizing.resources import MemoryRow, rank_bytes
from engram.sizing.run_options import Place, RunOptions
from engram.sizing.weights import Group, Kind, Weights
from engram.sizing.working_state import LORA_RANK, lora_params
from engram.units import plural

# fp32 values per parameter of a dense optimiser, besides the fp32 master copy of a 16-bit weight.
_DENSE_STATES = {"adam": 2, "momentum": 1, "sgd": 0}
# State of the optimisers that touch only the rows that were read.
_SPARSE_STATES = {
    "rowwise-adagrad": "one fp32 a row",
    "sparse-adam": "two values a parameter in the table's dtype",
}
_INDEX_BYTES = 8


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
            gradients[1] += rank_bytes(part, part.size_bytes, ranks)
        states[0] += state
        states[1] += rank_bytes(part, state, ranks)
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


def training_notes(options: RunOptions, context: int, has_base: bool) -> list[str]:
    """Describe an optimiser, and what is trained.

    Args:
        options: The use.
        context: Tokens of a sequence.
        has_base: Whether a base model is counted.
    """
    optimizer = options.optimizer
    dense = optimizer if optimizer in _DENSE_STATES else "adam"
    notes = [
        f"{dense}: gradients in the weights' dtype, "
        f"{plural(_DENSE_STATES[dense], 'fp32 value')} a parameter, an fp32 master copy of 16-bit "
        "weights"
    ]
    if optimizer != dense:
        notes = [
            f"tables under {optimizer}: {_SPARSE_STATES[optimizer]}, no master copy",
            f"sparse table gradients: {plural(options.batch * context, 'token')} a step, every "
            "look-up a row of its own",
            f"everything but the tables under {notes[0]}",
        ]
    if has_base:
        trained = {
            "memory": "the base model is frozen",
            "all": "the base model is trained too",
            "lora": f"the base model is frozen beside adapters of rank {LORA_RANK} (nominal)",
        }
        notes.append(trained[options.train])
    return notes


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
