"""LongCat's n-gram embeddings: several tables that are averaged into the input embedding."""

from __future__ import annotations

from dataclasses import replace

from engram.checkpoints.published.family import (
    Expected,
    Family,
    Memory,
    demand_settings,
    text_part,
)
from engram.checkpoints.published.stored import Stored
from engram.layouts.base import Naming
from engram.layouts.dialect import Dialect, Key, Slot
from engram.layouts.settings import MOST_HEADS, MOST_ORDERS, Setting
from engram.layouts.tensors import TABLE

# Names of meituan-longcat/LongCat-Flash-Lite modeling_longcat_ngram.py.
_RELEASED = Dialect(
    name="LongCat",
    root="model.",
    place="ngram_embeddings.",
    names={TABLE: "embedders.{table}.weight", "post_projs": "post_projs.{table}.weight"},
    scale="weight_scale",
    settings=(
        Setting("orders", ("emb_neighbor_num", "oe_neighbor_num"), low=2, high=MOST_ORDERS),
        Setting("splits", ("emb_split_num", "oe_split_num"), high=MOST_HEADS),
        Setting("hidden", ("hidden_size",)),
        Setting("vocab_size", ("vocab_size",)),
        Setting("ratio", ("ngram_vocab_size_ratio", "oe_vocab_size_ratio"), kind="number"),
    ),
)
_FLAT = replace(
    _RELEASED,
    name="LongCat-2.0",
    place="",
    names={TABLE: "oe_embed_tokens{table}.weight", "post_projs": "oe_embed_proj{table}.weight"},
)
_NAMING = Naming(
    name="longcat_ngram",
    title="LongCat n-gram embeddings",
    dialects=(_RELEASED, _FLAT),
    stated_by="ratio",
    model_types=("longcat_flash_ngram",),
)


def _describe(stored: Stored) -> Memory:
    stated = demand_settings(_RELEASED.settings, stored)
    orders, splits, hidden, vocab_size, ratio = stated.values()
    tables = (orders - 1) * splits
    base = _base(stored, ratio, vocab_size)
    expected: dict[Key, Expected] = {}
    hash_rows = 0
    for i in range(tables):
        rows = int(base + 2 * i + 1)  # layouts.longcat.table_rows, without its numpy
        expected[Key(None, TABLE, i)] = Expected(shape=(rows, hidden // tables))
        expected[Key(None, "post_projs", i)] = Expected(shape=(hidden, hidden // tables))
        hash_rows += rows
    return Memory(
        config=None,
        reads=1,
        hash_rows={None: hash_rows},
        expected=expected,
        notes=(f"orders 2 to {orders}, {splits} tables each, averaged into the input embedding",),
    )


def _base(stored: Stored, ratio: float, vocab_size: int) -> float:
    """Rows that the tables count up from.

    A model that hears and sees hashes with the text's vocabulary, under whatever name its config
    has it, so that the first table decides between the sizes that the config states.
    """
    config = text_part(stored.config)
    sizes = [v for k, v in config.items() if "vocab" in k and type(v) is int]
    slots = ((_NAMING.read(name), info) for name, info in stored.tensors.items())
    tables = (i.shape[0] for slot, i in slots if slot and _is_first_table(slot))
    first = next(tables, None)
    found = (size for size in sizes if first is not None and int(ratio * size + 1) == first)
    return ratio * next(found, vocab_size)


def _is_first_table(slot: Slot) -> bool:
    return slot.key == Key(None, TABLE, 0) and not slot.is_scale


FAMILY = Family(naming=_NAMING, describe=_describe)
