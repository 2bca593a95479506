"""Small memories and random documents, and their rows counted with Python's sets."""

from __future__ import annotations

import json

import numpy as np

from engram.addressing.addresses import Addresses
from engram.addressing.reference import hash_ids, look_back
from engram.config.engram_config import EngramConfig
from engram.corpus.counts.distinct import DistinctWindows
from engram.corpus.tokens.tokenise import TokenBatch
from support.paths import GOLDEN

BPE_MAP = np.array(
    json.loads((GOLDEN / "token_map_local_bpe.json").read_text())["token_map"], np.int32
)


MEMORIES = {
    "demo": {"max_ngram_size": 3, "n_head_per_ngram": 4, "engram_table_size": [4000, 9000]},
    "deepseek_v41": {"max_ngram_size": 4, "n_head_per_ngram": 3, "engram_table_size": [3000] * 3},
    "qwen_ple": {
        "max_ngram_size": 3,
        "n_head_per_ngram": 2,
        "engram_table_size": [2500] * 2,
        "eos_id": 1,
    },
    "ends": {
        "max_ngram_size": 3,
        "n_head_per_ngram": 2,
        "engram_table_size": [2500] * 2,
        "eos_id": 1,
        "ends_after_eos": True,
    },
    "one_head": {"max_ngram_size": 2, "n_head_per_ngram": 1, "engram_table_size": [2]},
}


def addresses_of(name: str) -> Addresses:
    values = {"layout": "demo" if name in ("one_head", "ends") else name, **MEMORIES[name]}
    heads = values["n_head_per_ngram"]
    config = EngramConfig(
        hidden_size=8, engram_vocab_size=len(BPE_MAP), n_embed_per_ngram=heads * 2,
        layer_ids=[5, 0, 2], **values,
    )  # fmt: skip
    return Addresses.from_config(config, BPE_MAP, pad_id=2)


def batch_of(documents: list[list[int]]) -> TokenBatch:
    tokens = np.array([token for document in documents for token in document], dtype=np.uint16)
    boundaries = np.cumsum([0, *map(len, documents)], dtype=np.int64)
    return TokenBatch(tokens, boundaries, 0)


def add_windows(windows: DistinctWindows, slots: np.ndarray) -> None:
    """Add windows that have no token in common, one by one.

    Args:
        windows: The set.
        slots: Ids of the windows ``[order, n]``: slot k holds the id k positions back.
    """
    order = len(slots)
    ids = slots[::-1].T.flatten()
    boundaries = np.array([0, len(ids)])
    for end in range(order, len(ids) + 1, order):
        windows.add(ids, boundaries, end - 1, end, fill=0)


def random_documents(seed: int, count: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 60, count)
    # Few distinct ids and many ends of text, so that n-grams repeat and segments end inside.
    return [
        rng.choice([0, 1, 1, 2, *range(30), *range(500, 544)], size).tolist() for size in lengths
    ]


def brute_force(addresses: Addresses, documents: list[list[int]]):
    rows, windows = {}, {}
    for document in documents:
        ids = np.array([document], dtype=np.int64)
        if not document:
            continue
        slots, _ = look_back(addresses, ids)
        hashed, _ = hash_ids(addresses, ids)
        for order in addresses.orders:
            windows.setdefault(order, set()).update(map(tuple, slots[0, :, :order].tolist()))
        for layer in range(hashed.shape[2]):
            for column in range(hashed.shape[3]):
                rows.setdefault((layer, column), set()).update(hashed[0, :, layer, column].tolist())
    return rows, windows
