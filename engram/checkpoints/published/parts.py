"""The weights of a released checkpoint in parts: what the headers say, counted in values."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import add

from engram.checkpoints.published.encoded_values import encoded_values
from engram.checkpoints.published.family import Released
from engram.checkpoints.published.formats import format_of
from engram.errors import LayoutError
from engram.layouts.dialect import Key, Role, Side, Slot
from engram.sizing.pages import RowPages, joined, row_pages
from engram.sizing.weights import Weights
from engram.storage.safetensors_headers import TensorInfo

# Layer, role, number of the table, and name of a part.
_Group = tuple[int | None, Role, int, str]
_ROLES: tuple[Role, ...] = ("table", "dense", "constants")
_SCALE = re.compile(r"\.(?:scale|weight_scale|weight_scale_inv|weight_scale_2)$")
_NO_VALUES = ("I64", "U64", "BOOL", "F8_E8M0")  # counters, masks, scales
_PACKED = ("U8", "I8", "I32", "U32")


def released_weights(found: Released) -> tuple[list[Weights], list[str]]:
    """Count what a released checkpoint holds.

    Returns:
        Its parts: of the memory by layer, tables first, and the base as one; and what should be
        said with them.
    """
    tensors = found.stored.tensors
    groups: dict[_Group, list[tuple[Slot, TensorInfo]]] = {}
    for name, slot in found.slots.items():
        number = 0 if slot.role == "dense" else slot.key.number or 0
        group = (slot.key.layer_id, slot.role, number, found.family.part(slot))
        groups.setdefault(group, []).append((slot, tensors[name]))
    order = list(dict.fromkeys([*found.hash_rows, *(group[0] for group in groups)]))
    sorted_groups = sorted(
        groups, key=lambda group: (order.index(group[0]), _ROLES.index(group[1]), *group[2:])
    )
    weights = [_part(found, group, groups[group]) for group in sorted_groups]
    base = {name: info for name, info in tensors.items() if name not in found.slots}
    if not base:
        return weights, ["the files hold no base model"]
    weights.append(_base(base))
    packed = weights[-1].kind == "estimated"
    note = "base: packed integers are counted as one parameter each (estimated)"
    return weights, [note] if packed else []


def _part(found: Released, group: _Group, tensors: Sequence[tuple[Slot, TensorInfo]]) -> Weights:
    layer, role, _, part = group
    values = [(slot, info) for slot, info in tensors if slot.is_values]
    counted = [_values(found, slot.key, info) for slot, info in values]
    names = {name for _, name in counted}
    params = 0 if role == "constants" else sum(count for count, _ in counted)
    is_table = role == "table" and params > 0 and all(len(i.shape) == 2 for _, i in values)
    return Weights(
        part=part if layer is None else f"layers.{layer}.{part}",
        group=role,
        params=params,
        size_bytes=sum(info.stop - info.start for _, info in tensors),
        dtype=_dtype(found, values[0][0].key, names) if values and role != "constants" else None,
        kind="exact",
        rows=sum(info.shape[0] for _, info in values) if is_table else 0,
        layer_id=layer,
        reads=found.reads if is_table else 0,
        pages=_pages(found, tensors) if is_table else None,
    )


def _values(found: Released, key: Key, info: TensorInfo) -> tuple[int, str | None]:
    """Parameters of a tensor, and the name of their format."""
    expected = found.expected.get(key)
    columns = expected.shape[-1] if expected is not None and expected.shape else None
    stored = format_of(info, columns)
    if stored is None:
        return info.size, None
    return info.shape[0] * columns if stored.packed and columns else info.size, stored.name


def _dtype(found: Released, key: Key, names: set[str | None]) -> str | None:
    """Name the format of a part: the encoding of packed rows where it is known."""
    expected = found.expected.get(key)
    try:
        encoded = encoded_values(found, key, expected.shape[-1]) if expected else None
    except LayoutError:
        encoded = None
    if encoded is not None:
        return encoded.encoding
    return next(iter(names)) if len(names) == 1 else None


def _pages(found: Released, tensors: Sequence[tuple[Slot, TensorInfo]]) -> RowPages | None:
    """Disk pages of reading a row: its values, and its scales where every row has its own."""

    def pages(side: Side) -> RowPages | None:
        shards = []
        for slot, info in tensors:
            # A scale for the whole, or one a row without a dimension of its own, stays in memory.
            if slot.side == side and len(info.shape) == 2 and info.size:
                row = (info.stop - info.start) // info.shape[0]
                start = info.start if found.stored.folder is not None else None
                shards.append((info.shape[0], row_pages(row, info.shape[0], start)))
        return joined(shards)

    sides: tuple[Side, ...] = ("values", "scale", "bias")
    found_pages = [of_side for of_side in map(pages, sides) if of_side is not None]
    return reduce(add, found_pages) if found_pages else None


def _base(tensors: dict[str, TensorInfo]) -> Weights:
    formats = {name: format_of(info) for name, info in tensors.items()}
    scaled = {name for name, stored in formats.items() if stored is not None and stored.scaled}
    scales = {it for it in tensors if _SCALE.search(it) and _SCALE.sub(".weight", it) in scaled}
    sizes: Counter[str] = Counter()
    for name, info in tensors.items():
        if info.dtype not in _NO_VALUES and name not in scales:
            sizes[info.dtype] += info.size
    most = max(sizes, key=lambda tag: sizes[tag], default="")
    stored = next((it for name, it in formats.items() if tensors[name].dtype == most), None)
    return Weights(
        part="base",
        group="base",
        params=sizes.total(),
        size_bytes=sum(info.stop - info.start for info in tensors.values()),
        dtype=stored.name if stored is not None else None,
        kind="estimated" if any(sizes[tag] for tag in _PACKED) else "exact",
    )
