"""Released checkpoints with a memory: recognised by config and names, and what they should hold."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from engram.addressing.primes import head_primes, stored_rows
from engram.backbone.claims import text_part
from engram.checkpoints.published import gemma, longcat
from engram.checkpoints.published.family import Expected, Released, demand_settings
from engram.config.engram_config import EngramConfig
from engram.errors import CorruptFileError, InputError, Problem
from engram.layouts import LAYOUTS, Layout
from engram.layouts.base import Naming
from engram.layouts.dialect import Dialect, Key
from engram.layouts.settings import config_keys
from engram.layouts.tensors import shape_of
from engram.storage.safetensors_headers import TensorInfo
from engram.storage.stored import Stored
from engram.tensor_names import TABLE, is_memory

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_Block = tuple[int, int]


def families() -> dict[Naming, Callable[[Stored], Released]]:
    """Tell what files should hold, by family: our layouts, and two kinds that we do not run."""
    return {
        **{layout: partial(_describe, layout) for layout in LAYOUTS.values()},
        longcat.FAMILY: longcat.describe,
        gemma.FAMILY: gemma.describe,
    }


def find_family(stored: Stored) -> Naming | None:
    """Find the family of a checkpoint: by its config, else by the names of its tensors."""
    settings, known = text_part(stored.config), families()
    stating = (family for family in known if family.states(settings))
    marked = (family for family in known if any(map(family.marks, stored.tensors)))
    return next(stating, None) or next(marked, None)


def is_hub_id(target: str) -> bool:
    """Whether a text reads as ``organisation/name`` on the hub."""
    return _HUB_ID.fullmatch(target) is not None and not target.endswith((".json", ".yaml", ".yml"))


def recognise(stored: Stored) -> Released:
    """Say what a checkpoint is and what it should hold.

    Raises:
        InputError: It is of no known family.
        ConfigError: Its config lacks what the memory follows from.
        CorruptFileError: A state dict without a config lacks what would describe it.
    """
    family = find_family(stored)
    if family is None:
        folder = str(stored.folder or stored.name)
        if any(map(is_memory, stored.tensors)):
            raise InputError(
                f"{stored.name} has no memory by its config, but tensors of an attached one.",
                f"Give the whole folder, with the config that attach wrote: {folder}",
                folder=folder,
            )
        raise InputError(
            f"{stored.name} has no memory: its config.json lacks the key engram, and its tensors "
            "are of no known family.",
            f"Attach one: engram attach {folder} -c CONFIG -o FOLDER",
            folder=folder,
        )
    return families()[family](stored)


def _describe(layout: Layout, stored: Stored) -> Released:
    """Tell what a checkpoint of one of our layouts should hold."""
    if not layout.released.settings:
        return _describe_alone(layout, stored)
    dialect = layout.spoken(stored.tensors)
    blocks, problems = _blocks(layout, dialect, stored)
    stated = demand_settings(dialect.settings, stored, problems)
    if layout.prime_order == "sorted":
        stated["layer_ids"] = sorted(stated["layer_ids"])
    folder = None if stored.folder is None else str(stored.folder)
    config = EngramConfig(layout=layout.name, tokenizer=folder, **config_keys(stated))
    primes = head_primes(config)
    layers: dict[int | None, dict[str, int]] = {
        layer_id: {**config.sizes, "R": stored_rows(heads, config.row_multiple)}
        for layer_id, heads in primes.items()
    }
    orders = f"orders 2 to {config.max_ngram_size}, {config.n_head_per_ngram} heads each"
    rounded = f"rows rounded up to a multiple of {config.row_multiple}"
    return Released(
        family=layout,
        stored=stored,
        config=config,
        reads=config.n_columns,
        hash_rows={layer_id: sum(map(sum, heads)) for layer_id, heads in primes.items()},
        expected=dict(_expected(layout, dialect, layers, blocks, stated.get("shards", 1))),
        note=rounded if config.row_multiple > 1 else orders,
    )


def _describe_alone(layout: Layout, stored: Stored) -> Released:
    """Describe a state dict without a config: its tensors have to fit each other."""
    tensors: dict[int | None, dict[Key, TensorInfo]] = {}
    for name, info in stored.tensors.items():
        slot = layout.read(name)
        if slot is not None:
            tensors.setdefault(slot.key.layer_id, {})[slot.key] = info
    layers = {it: _sizes_in(layout, stored, it, infos) for it, infos in tensors.items()}
    return Released(
        family=layout,
        stored=stored,
        reads=max((values["C"] for values in layers.values()), default=0),
        hash_rows={layer_id: values["R"] for layer_id, values in layers.items()},
        expected=dict(_expected(layout, layout.released, layers, {}, 1)),
        note="a state dict without a config: sizes as the tensors have them",
    )


def _expected(
    layout: Layout,
    dialect: Dialect,
    layers: Mapping[int | None, Mapping[str, int]],
    blocks: Mapping[str, _Block],
    shards: int,
) -> Iterator[tuple[Key, Expected]]:
    """The tensors of layers, given the values of the shapes' letters in each."""
    for layer_id, values in layers.items():
        for key in layout.released.keys(layer_id, values["M"]):
            pieces = shards if "{shard}" in layout.released.names[key.name] else 1
            shape = shape_of(layout.letters(key), values)
            letters = dialect.shapes.get(key.name)
            other = None if letters is None else shape_of(letters, values)
            block = blocks.get(key.name)
            yield key, Expected(shape=shape, block=block, shards=pieces, other=other)


def _blocks(
    layout: Layout, dialect: Dialect, stored: Stored
) -> tuple[dict[str, _Block], list[Problem]]:
    """Rows and columns that share a scale, as the config states them or the layout has them."""
    blocks = {tensor.name: tensor.block for tensor in layout.all_tensors.values() if tensor.block}
    stated = text_part(stored.config).get("quantization_config") or {}
    if not isinstance(stated, dict):
        return blocks, [Problem("quantization_config", f"{stated!r} is not an object")]
    problems = []
    for name, key in (dialect.block_keys or {}).items():
        rows, columns = blocks[name]
        value: Any = stated.get(key, columns if rows == 1 else [rows, columns])
        sizes: Any = [1, value] if rows == 1 else value
        is_pair = isinstance(sizes, list) and len(sizes) == 2
        if not (is_pair and all(type(size) is int and size > 0 for size in sizes)):
            problems.append(Problem("quantization_config", f"{key} {value!r} is not a size"))
        else:
            blocks[name] = (sizes[0], sizes[1])
    return blocks, problems


def _sizes_in(
    layout: Layout, stored: Stored, layer_id: int | None, infos: Mapping[Key, TensorInfo]
) -> dict[str, int]:
    """Read the values of the shapes' letters off the tensors that have them as a dimension."""
    table, offsets = infos.get(Key(layer_id, TABLE)), infos.get(Key(layer_id, "offsets"))
    if (
        table is None
        or offsets is None
        or len(table.shape) != 2
        or len(offsets.shape) != 1
        or not offsets.size
    ):
        lacking = " or ".join(layout.released.names[name] for name in (TABLE, "offsets"))
        raise CorruptFileError(f"{stored.name}: it lacks {lacking}.")
    streams = max(1, len({key.number for key in infos} - {None}))
    columns, (rows, width) = offsets.shape[0], table.shape
    values = {"C": columns, "R": rows, "W": width, "E": columns * width, "M": streams}
    for key in layout.released.keys(layer_id, values["M"]):
        if key in infos:
            letters = layout.letters(key).split(", ")
            for letter, size in zip(letters, infos[key].shape, strict=False):
                values.setdefault(letter, size)
    return {"D": 0, "K": 0, **values}
