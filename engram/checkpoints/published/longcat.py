"""LongCat's n-gram embeddings: several tables that are averaged into the input embedding.

Names as in meituan-longcat/LongCat-Flash-Lite modeling_longcat_ngram.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engram.checkpoints.published.family import (
    Expected,
    Family,
    Memory,
    demand_settings,
    text_part,
)
from engram.checkpoints.published.stored import Stored
from engram.layouts.dialect import Key, Slot, without_scale
from engram.layouts.settings import MOST_HEADS, MOST_ORDERS, Setting

_SETTINGS = (
    Setting("orders", ("emb_neighbor_num", "oe_neighbor_num"), low=2, high=MOST_ORDERS),
    Setting("splits", ("emb_split_num", "oe_split_num"), high=MOST_HEADS),
    Setting("hidden", ("hidden_size",)),
    Setting("vocab_size", ("vocab_size",)),
    Setting("ratio", ("ngram_vocab_size_ratio", "oe_vocab_size_ratio"), kind="number", high=2**31),
)
_NAME = re.compile(r"^(.*\.)?ngram_embeddings\.(embedders|post_projs)\.(\d+)\.weight$")
_FLAT_NAME = re.compile(r"^(.*\.)?oe_embed_(tokens|proj)(\d+)\.weight$")
_FLAT = {"tokens": "embedders", "proj": "post_projs"}


def _states(config: Mapping[str, Any]) -> bool:
    ratio = config.get("ngram_vocab_size_ratio", config.get("oe_vocab_size_ratio"))
    return ratio is not None or config.get("model_type") == "longcat_flash_ngram"


def _find(name: str) -> Slot | None:
    name, is_scale = without_scale(name)
    match = _NAME.match(name) or _FLAT_NAME.match(name)
    if match is None:
        return None
    kind, number = _FLAT.get(match[2], match[2]), match[3]
    table = kind == "embedders"
    part = f"table.{number}" if table else "post_projs"
    return Slot(Key(None, f"{kind}.{number}.weight"), part, "table" if table else "dense", is_scale)


def _name_of(key: Key, shard: int | None, scale: bool, names: Mapping[str, Slot]) -> str:
    example, _ = without_scale(next(iter(names), "model.ngram_embeddings.embedders.0.weight"))
    kind, number, _ = key.name.split(".")
    tensor = "weight_scale" if scale else "weight"
    flat = _FLAT_NAME.match(example)
    if flat:
        short = next(short for short, full in _FLAT.items() if full == kind)
        return f"{flat[1] or ''}oe_embed_{short}{number}.{tensor}"
    match = _NAME.match(example)
    return f"{(match[1] if match else None) or ''}ngram_embeddings.{kind}.{number}.{tensor}"


def _describe(stored: Stored) -> Memory:
    stated = demand_settings(_SETTINGS, stored)
    orders, splits, hidden, vocab_size, ratio = (stated[setting.ours] for setting in _SETTINGS)
    tables = (orders - 1) * splits
    base = _base(stored, float(ratio), vocab_size)
    expected: dict[Key, Expected] = {}
    for i in range(tables):
        # layouts.longcat.table_rows, without its numpy
        expected[Key(None, f"embedders.{i}.weight")] = Expected(
            shape=(int(base + 2 * i + 1), hidden // tables)
        )
        expected[Key(None, f"post_projs.{i}.weight")] = Expected(shape=(hidden, hidden // tables))
    rows = sum(item.shape[0] for key, item in expected.items() if key.name.startswith("emb"))
    return Memory(
        config=None,
        reads=1,
        hash_rows={None: rows},
        expected=expected,
        notes=(f"orders 2 to {orders}, {splits} tables each, averaged into the input embedding",),
    )


def _base(stored: Stored, ratio: float, vocab_size: int) -> float:
    """Rows that the tables count up from.

    A model that hears and sees hashes with the text's vocabulary, under whatever name its config
    has it, so that the first table decides between the sizes that the config states.
    """
    sizes = [v for k, v in text_part(stored.config).items() if "vocab" in k and type(v) is int]
    first = next(
        (info.shape[0] for name, info in stored.tensors.items() if _is_first_table(name)), None
    )
    found = (size for size in sizes if first is not None and int(ratio * size + 1) == first)
    return ratio * next(found, vocab_size)


def _is_first_table(name: str) -> bool:
    slot = _find(name)
    return slot is not None and slot.part == "table.0" and not slot.is_scale


FAMILY = Family(
    layout="longcat_ngram",
    title="LongCat n-gram embeddings",
    states=_states,
    marks=re.compile(r"(^|\.)(ngram_embeddings\.embedders\.0|oe_embed_tokens0)\.weight$").search,
    find=_find,
    name_of=_name_of,
    describe=_describe,
)
