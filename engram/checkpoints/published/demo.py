"""State dicts of the reference demo: its names, and constants derived from the stored offsets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from engram.addressing.prime_witness import first_composite
from engram.checkpoints.published.family import Expected, Family, Key, Memory, Released, Slot
from engram.checkpoints.published.stored import Stored
from engram.checks import Verdict, first_of
from engram.errors import CorruptFileError
from engram.layouts import DEMO
from engram.storage.safetensors_headers import TensorInfo

_TABLE = "multi_head_embedding.embedding.weight"
_OFFSETS = "multi_head_embedding.offsets"
_TENSOR = (
    r"multi_head_embedding\.(?:embedding\.weight|offsets)|value_proj\.(?:weight|bias)"
    r"|key_projs\.\d+\.(?:weight|bias)|norm[12]\.\d+\.weight"
    r"|short_conv\.(?:conv|norms\.\d+)\.weight"
)
# Alone, or in a model: behind a layer's number, or behind ``engram.``.
_NAME = re.compile(rf"^((?:(?:.*\.)?(?:engram|\d+)\.)?)({_TENSOR})$")
_NUMBER = re.compile(r"(\d+)(?!.*\d)")


def _states(config: Mapping[str, Any]) -> bool:
    return False  # the demo writes no config: known by its names alone


def _find(name: str) -> Slot | None:
    match = _NAME.match(name)
    if match is None:
        return None
    number = _NUMBER.search(match[1])
    layer = int(number[1]) if number else None
    if match[2] == _TABLE:
        return Slot(layer, _TABLE, "table", "table")
    if match[2] == _OFFSETS:
        return Slot(layer, _OFFSETS, "constants", "constants")
    return Slot(layer, match[2], match[2].split(".")[0], "dense")


def _name_of(key: Key, shard: int, scale: bool, names: Mapping[str, Slot]) -> str:
    prefixes = {
        slot.layer_id: match[1] for name, slot in names.items() if (match := _NAME.match(name))
    }
    return prefixes.get(key[0], "") + key[1]


def _describe(stored: Stored) -> Memory:
    layers: dict[int | None, dict[str, TensorInfo]] = {}
    for name, info in stored.tensors.items():
        slot = _find(name)
        if slot is not None:
            layers.setdefault(slot.layer_id, {})[slot.key] = info
    expected: dict[Key, Expected] = {}
    rows: dict[int | None, int] = {}
    columns = 0
    for layer, infos in layers.items():
        table, offsets = infos.get(_TABLE), infos.get(_OFFSETS)
        if table is None or offsets is None or len(table.shape) != 2 or len(offsets.shape) != 1:
            raise CorruptFileError(f"{stored.name}: it lacks {_TABLE} or {_OFFSETS}.")
        columns, rows[layer] = offsets.shape[0], table.shape[0]
        for key, shape in _shapes(infos, columns * table.shape[1]).items():
            expected[layer, key] = Expected(shape=shape)
    return Memory(
        config=None,
        reads=columns,
        hash_rows=rows,
        expected=expected,
        notes=("a state dict without a config: sizes as the tensors have them",),
    )


def _shapes(infos: Mapping[str, TensorInfo], memory: int) -> dict[str, tuple[int, ...]]:
    """Shapes that the tensors of a module must have so that they fit each other."""
    streams = sum(name.startswith("key_projs.") and name.endswith(".weight") for name in infos)
    value, conv = infos.get("value_proj.weight"), infos.get("short_conv.conv.weight")
    hidden = value.shape[0] if value is not None and value.shape else 0
    taps = conv.shape[-1] if conv is not None and conv.shape else 0
    shapes: dict[str, tuple[int, ...]] = {
        _TABLE: infos[_TABLE].shape,
        _OFFSETS: infos[_OFFSETS].shape,
        "value_proj.weight": (hidden, memory),
        "value_proj.bias": (hidden,),
        "short_conv.conv.weight": (max(streams, 1) * hidden, 1, taps),
    }
    for stream in range(max(streams, 1)):
        shapes[f"key_projs.{stream}.weight"] = (hidden, memory)
        shapes[f"key_projs.{stream}.bias"] = (hidden,)
        for norm in ("norm1", "norm2", "short_conv.norms"):
            shapes[f"{norm}.{stream}.weight"] = (hidden,)
    return shapes


def _check_rows(found: Released, tokenizer: str | None) -> Verdict:
    problems, sizes = [], []
    for layer, rows in found.memory.hash_rows.items():
        names = found.names((layer, _OFFSETS))
        if not names:
            return None, "the offsets are not in the files"
        offsets = found.stored.integers(names[0])
        heads = [after - before for before, after in pairwise([*offsets, rows])]
        sizes += heads
        if offsets[0] != 0:
            problems.append(f"{names[0]} begins with {offsets[0]}, not 0")
        wrong = first_composite(heads)
        if wrong is not None:
            column = f"column {wrong} has {heads[wrong]} rows"
            problems.append(f"{names[0]}: {column}, which is not prime")
    if not problems and len(set(sizes)) != len(sizes):
        problems.append("two heads have the same prime; every head has its own")
    if problems:
        return False, first_of(problems)
    return True, f"{len(sizes)} heads of different primes fill the tables to the last row"


def _check_constants(found: Released, tokenizer: str | None) -> Verdict:
    return None, "a state dict stores no multipliers, seed or token map, and no config says them"


FAMILY = Family(
    layout=DEMO.name,
    title="state dict of the reference demo",
    source=DEMO.source,
    states=_states,
    mark=re.compile(r"(^|\.)key_projs\.0\.weight$"),
    find=_find,
    name_of=_name_of,
    describe=_describe,
    checks={"rows": _check_rows, "constants": _check_constants},
)
