"""`is_of_release`: whether a memory in GGUF is the released one of its layout."""

from __future__ import annotations

import numpy as np

from engram.addressing.addresses import map_digest
from engram.addressing.multipliers import multipliers
from engram.addressing.primes import flat_primes, head_primes, stored_rows
from engram.checkpoints.gguf.gguf_addresses import read_numbers, whole_numbers
from engram.checkpoints.gguf.gguf_memory import GgufMemory
from engram.config.engram_config import EngramConfig
from engram.config.templates import load_template
from engram.errors import EngramError

# Releases by layout, whose pad, end and seed their configs state.
RELEASES = {"deepseek_v41": "deepseek-v4.1-flash", "qwen_ple": "qwen3.8-flash-next"}


def is_of_release(memory: GgufMemory) -> bool:
    """Whether a memory is the released one, whose pad and end of documents are known.

    Tables with as many rows as the release's tell it; without tables its primes, or the rows that
    it states; with none of these its token map. Where token ids themselves are hashed, multipliers
    of the file's own vocabulary are those of another model.

    Args:
        memory: The file.
    """
    release = load_template(RELEASES[memory.layout.name])
    return _has_rows_of(release, memory) and not _is_of_own_vocab(release, memory)


def _has_rows_of(release: EngramConfig, memory: GgufMemory) -> bool:
    heads = head_primes(release)
    rows = {layer: stored_rows(orders, release.row_multiple) for layer, orders in heads.items()}
    if memory.tables:
        if "{layer}" not in (memory.dialect.table or ""):  # the layer is stated, maybe wrongly
            return {table.rows for table in memory.tables} <= {*rows.values()}
        return all((table.layer_id, table.rows) in rows.items() for table in memory.tables)
    primes, stated = stated_numbers(memory, "primes"), stated_numbers(memory, "rows")
    if primes is None and stated is None:
        return _has_known_map(memory)
    return primes == flat_primes(release) or stated == [*rows.values()]


def _has_known_map(memory: GgufMemory) -> bool:
    token_map = stated_numbers(memory, "token_map")
    if not token_map:
        return False
    return map_digest(whole_numbers(token_map).astype(np.int32)) in (
        memory.layout.known_maps.values()
    )


def _is_of_own_vocab(release: EngramConfig, memory: GgufMemory) -> bool:
    """Whether multipliers are drawn for another vocabulary of token ids than the release's."""
    own, stated = memory.vocab_size, stated_numbers(memory, "multipliers")
    if memory.layout.hashes != "raw" or stated is None or own in (None, release.engram_vocab_size):
        return False
    layers = memory.tensor_layers or memory.layer_ids or None
    drawn = multipliers(release, own, layers).values()
    return stated == [factor for draw in drawn for factor in draw]


def stated_numbers(memory: GgufMemory, fact: str) -> list[int] | None:
    """Return a list of whole numbers that a file states; None where it cannot be read.

    Args:
        memory: The file.
        fact: Our name of the constant.
    """
    try:
        return read_numbers(memory, fact)
    except EngramError:
        return None  # missing, or of another form: the checks of files tell it
