"""Whether a model fits a machine, for people, and how much of each resource it takes."""

from collections.abc import Sequence

from engram.sizing.placement import ACTIVATIONS, MemoryUse
from engram.sizing.resources import Resource
from engram.sizing.weights import GROUP_NAMES
from engram.units import format_bytes
from engram_cli.output import Shown, Table

_TRAINED = {
    "memory": "training the memory",
    "all": "training everything",
    "lora": "training the memory and low-rank adapters",
}


def machine(use: MemoryUse, resources: Sequence[Resource], fits: bool | None) -> Shown:
    """Say whether a model fits, and what it takes.

    Args:
        use: Its bytes, placed.
        resources: Amounts that it takes, and that there are.
        fits: Whether that is there; None if it is not known.
    """
    options = use.options
    unknown = [it.name for it in resources if it.fits is None]
    lacking = [f"{it.shown(it.missing)} of {it.name} are missing" for it in resources if it.missing]
    answer = {
        True: "yes",
        False: f"no, {and_(lacking)}",
        None: f"unknown, {and_(unknown)} not given",
    }[fits]
    groups = {part.group for part in use.weights}
    trained = _TRAINED[options.train] if "base" in groups else "training"
    work = trained if options.mode == "training" else "inference"
    has_activations = any(row.part == ACTIVATIONS for row in use.rows)
    bare = "" if has_activations else " (caches and activations not counted)"
    alone = bare if "base" in groups else " of the memory alone"
    tables = f", tables on the {use.tables}" if "table" in groups else ""
    gpus = f" on {options.tp} GPUs" if options.tp > 1 else "" if options.tp else " without a GPU"
    yield f"Fits for {work}{alone}{gpus}{tables}: {answer}."
    rows = [
        (it.name, it.shown(it.used), it.shown(it.capacity), _left(it))
        for it in resources
        if it.used or it.capacity is not None
    ]
    yield Table(rows, ("", "used", "there is", "left"), left=("",))


def parts(use: MemoryUse) -> Table:
    """List what takes the memory: weights by group, then gradients, state, caches, activations."""
    rows: dict[tuple[str, str, str], int] = {}
    groups = {part.part: GROUP_NAMES[part.group] for part in use.weights}
    for row in use.rows:
        key = (groups.get(row.part, row.part), row.kind, row.place)
        rows[key] = rows.get(key, 0) + row.size_bytes
    lines = [(name, format_bytes(size), kind, place) for (name, kind, place), size in rows.items()]
    total = ("total", format_bytes(use.total_bytes), "", "")
    return Table(
        [*lines, total], ("part", "bytes", "kind", "place"), left=("part", "kind", "place")
    )


def and_(names: Sequence[str]) -> str:
    """Join names for people: "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _left(it: Resource) -> str:
    if it.capacity is None:
        return ""
    return f"lacks {it.shown(it.missing)}" if it.missing else it.shown(it.capacity - it.used)
