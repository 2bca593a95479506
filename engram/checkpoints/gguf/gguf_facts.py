"""Constants of a memory as a dialect of GGUF states them: the keys that are to be written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engram.addressing.addresses import Addresses
from engram.errors import MissingFileError
from engram.layouts.gguf_dialect import GgufDialect
from engram.storage.gguf_writer import NewValue


def memory_facts(addresses: Addresses, size_base: int) -> dict[str, Any]:
    """Return the constants of a memory by our names of facts; no sizes of its rows and module.

    Args:
        addresses: The constants, with their token map if compressed ids are hashed.
        size_base: Nominal rows of a head.

    Raises:
        MissingFileError: The token map is not there.
    """
    layers, token_map = addresses.layers, addresses.token_map
    facts: dict[str, Any] = {
        "layer_ids": addresses.layer_ids,
        "rows": [layer.stored_rows for layer in layers],
        "orders": addresses.max_ngram_size,
        "heads": addresses.n_heads,
        "primes": [prime for layer in layers for prime in layer.heads],
        "offsets": [offset for layer in layers for offset in layer.offsets],
        "multipliers": [factor for layer in layers for factor in layer.multipliers],
        "present": True,
        "size_base": size_base,
    }
    if addresses.map_sha256 is None:
        return facts | {"eos_token_id": addresses.fill}
    if token_map is None:
        raise MissingFileError(
            "The token map is not there, and a GGUF file states it.",
            "Name the model's tokenizer: -t TOKENIZER (in Python, tokenizer=TOKENIZER)",
        )
    return facts | {
        "compressed_vocab_size": addresses.vocab_size,
        "token_map": token_map.tolist(),
        "pad_id": addresses.fill,
        "raw_pad_id": pad_token(addresses),
    }


def pad_token(addresses: Addresses) -> int:
    """Return the first token whose compressed id is the fill: the pad among token ids.

    Args:
        addresses: The constants, with their token map.
    """
    assert addresses.token_map is not None
    return int(np.flatnonzero(addresses.token_map == addresses.fill)[0])


def fact_keys(dialect: GgufDialect, facts: Mapping[str, Any], prefix: str) -> dict[str, NewValue]:
    """Return the keys of a dialect for facts, each of the type that its loaders take.

    Args:
        dialect: The dialect; facts that it holds as tensors are left out.
        facts: See `memory_facts`; those that are not among them are left out.
        prefix: Of the keys, up to the dot.
    """
    known = dict(facts)
    if dialect.pad_is_raw and "raw_pad_id" in known:
        known["pad_id"] = known["raw_pad_id"]
    return {
        f"{prefix}.{place.name}": NewValue(place.kinds[0], known[name])
        for name, place in dialect.facts.items()
        if name in known and not place.is_tensor
    }
