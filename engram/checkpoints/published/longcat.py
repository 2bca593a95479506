"""LongCat's n-gram embeddings: several tables that are averaged into the input embedding."""

from dataclasses import replace

from engram.backbone.claims import text_part
from engram.checkpoints.published.family import (
    Expected,
    Released,
    demand_settings,
)
from engram.layouts.base import Naming
from engram.layouts.dialect import Dialect, Key, Slot
from engram.layouts.settings import MOST_HEADS, MOST_ORDERS, Setting
from engram.storage.stored import Stored
from engram.tensor_names import TABLE

# Names of meituan-longcat/LongCat-Flash-Lite modeling_longcat_ngram.py.
_RELEASED = Dialect(
    name="LongCat",
    root="model.",
    place="ngram_embeddings.",
    own=False,
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
FAMILY = Naming(
    name="longcat_ngram",
    title="LongCat n-gram embeddings",
    dialects=(_RELEASED, _FLAT),
    stated_by="ratio",
    model_types=("longcat_flash_ngram",),
)


def table_rows(vocab_size: int, ratio: float, max_ngram_size: int, splits: int) -> list[int]:
    """Rows of each table; they are odd steps apart, and not prime.

    Args:
        vocab_size: Token ids V of the model.
        ratio: ngram_vocab_size_ratio: rows per token id.
        max_ngram_size: emb_neighbor_num N: the highest n-gram order.
        splits: emb_split_num: tables per order.

    Returns:
        Rows of table ``(order - 2) * splits + split``, N-1 times `splits` of them.
    """
    base = ratio * vocab_size
    return [int(base + 2 * i + 1) for i in range((max_ngram_size - 1) * splits)]


def describe(stored: Stored) -> Released:
    """Tell what a checkpoint of the family should hold."""
    stated = demand_settings(_RELEASED.settings, stored)
    orders, splits, hidden, vocab_size, ratio = stated.values()
    rows = table_rows(_vocab_size(stored, ratio, vocab_size), ratio, orders, splits)
    width = hidden // len(rows)
    expected: dict[Key, Expected] = {}
    for i, count in enumerate(rows):
        expected[Key(None, TABLE, i)] = Expected(shape=(count, width))
        expected[Key(None, "post_projs", i)] = Expected(shape=(hidden, width))
    return Released(
        family=FAMILY,
        stored=stored,
        reads=1,
        hash_rows={None: sum(rows)},
        expected=expected,
        note=f"orders 2 to {orders}, {splits} tables each, averaged into the input embedding",
    )


def _vocab_size(stored: Stored, ratio: float, stated: int) -> int:
    """Token ids that the tables count from.

    A model that hears and sees hashes with the text's vocabulary, under whatever name its config
    has it, so that the first table decides between the sizes that the config states.
    """
    sizes = [v for k, v in text_part(stored.config).items() if "vocab" in k and type(v) is int]
    first = {
        info.shape[0]
        for name, info in stored.tensors.items()
        if FAMILY.read(name) == Slot(Key(None, TABLE, 0))
    }
    return next((size for size in sizes if table_rows(size, ratio, 2, 1)[0] in first), stated)
