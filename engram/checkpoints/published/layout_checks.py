"""Checks of a released memory of our layouts: rows, constants and tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import cast

from engram.addressing.addresses import layer_addresses, map_digest
from engram.addressing.prime_witness import doubt_of_primes, first_composite
from engram.addressing.primes import head_primes
from engram.addressing.tokenizer_files import load_tokenizer
from engram.addressing.vocabulary import compressed_map
from engram.checkpoints.published.family import Released
from engram.checks import Verdict, verdict
from engram.config.engram_config import EngramConfig
from engram.errors import MissingFileError
from engram.layouts import Layout
from engram.layouts.base import Naming
from engram.layouts.dialect import Key
from engram.layouts.settings import Setting
from engram.layouts.tensors import CONSTANTS
from engram.tensor_names import TABLE


def checks_of(
    family: Naming, tokenizer: str | Path | None
) -> dict[str, Callable[[Released], Verdict]]:
    """List the checks that a layout's published names and settings allow, beside those of all.

    Args:
        family: The layout, or a family without checks of its own.
        tokenizer: Name or path of a tokenizer to use instead of a checkpoint's own.
    """
    if not isinstance(family, Layout):
        return {}
    released = family.released
    if not released.settings:
        return {"rows": _check_offsets, "constants": partial(_check_constants, None)}
    rows, size = released.setting("stored_rows"), released.setting("compressed_vocab_size")
    return {
        "sizes": _check_sizes,
        **({"rows": partial(_check_stated_rows, rows)} if rows else {}),
        "constants": partial(_check_constants, size),
        **({"tokenizer": partial(_check_tokenizer, size, tokenizer)} if size else {}),
    }


def _check_sizes(found: Released) -> Verdict:
    """Rows of the heads, stored or of the config, against the primes that sympy finds."""
    config = cast(EngramConfig, found.config)
    heads: dict[int, list[int]] = {}
    for layer_id, primes in head_primes(config).items():
        names = found.names(Key(layer_id, "sizes"))
        from_config = [rows for order in primes for rows in order]
        heads[layer_id] = found.stored.integers(names[0]) if names else from_config
    doubt = doubt_of_primes(config, heads)
    count = sum(map(len, heads.values()))
    right = f"{count} heads have the next primes that are free, and sympy agrees"
    return doubt is None, doubt or right


def _check_stated_rows(setting: Setting, found: Released) -> Verdict:
    """The rows of tables as the config states them against those that follow from it."""
    name, stated = setting.theirs[0], setting.stated(found.stored.config)
    expected = found.expected
    sums = [expected[Key(layer_id, TABLE)].shape[0] for layer_id in found.hash_rows]
    layers = ", ".join(map(str, found.hash_rows))
    if stated is None:
        return None, f"config.json states no {name}; sums of primes: {sums}"
    if stated == sums:
        shown = " and ".join(f"{rows:,}" for rows in sums)
        return True, f"sums of primes are the rows that the config states: {shown}"
    if isinstance(stated, list) and sorted(map(str, stated)) == sorted(map(str, sums)):
        return False, f"{name} {stated} is in another order than layers {layers}"
    return False, f"{name} is {stated}; primes of layers {layers} sum to {sums}"


def _check_offsets(found: Released) -> Verdict:
    """Offsets, where nothing else is stored, against what heads can be."""
    problems, sizes = [], []
    for layer_id, rows in found.hash_rows.items():
        names = found.names(Key(layer_id, "offsets"))
        if not names:
            return None, "the offsets are not in the files"
        offsets = found.stored.integers(names[0])
        heads = [after - before for before, after in pairwise([*offsets, rows])]
        sizes += heads
        if offsets[0] != 0:
            problems.append(f"{names[0]} begins with {offsets[0]}, not 0")
        wrong = first_composite(heads)
        if wrong is not None:
            problems.append(
                f"{names[0]}: column {wrong} has {heads[wrong]} rows, which is not prime"
            )
    if not problems and len(set(sizes)) != len(sizes):
        problems.append("two heads have the same prime; every head has its own")
    return verdict(
        problems, f"{len(sizes)} heads of different primes fill the tables to the last row"
    )


def _check_constants(setting: Setting | None, found: Released) -> Verdict:
    """Stored constants against those of the config."""
    config = found.config
    if config is None:
        return (
            None,
            "a state dict stores no multipliers, seed or token map, and no config says them",
        )
    size = setting.stated(found.stored.config) if setting else config.engram_vocab_size
    if setting and (type(size) is not int or size < 1):
        return False, f"{setting.theirs[0]} is {size!r}: multipliers follow from it"
    layers = {layer.layer_id: layer for layer in layer_addresses(config, size)}
    kept = [name for name in found.family.released.names if name in CONSTANTS]
    if not kept:
        drawn = "; ".join(f"layer {i} {list(one.multipliers)}" for i, one in layers.items())
        return None, f"the files store no multipliers; those of the config are: {drawn}"
    problems, unread = [], 0
    for layer_id, kind in product(layers, kept):
        names = found.names(Key(layer_id, kind))
        if not names:
            unread += 1
            continue
        stored = found.stored.integers(names[0])
        values = {other: layer.constants[kind] for other, layer in layers.items()}
        right = values.pop(layer_id)
        if stored != list(right):
            problems.append(_difference(kind, names[0], stored, right, values))
    return verdict(
        problems,
        "the stored multipliers, head sizes and offsets are those of the config",
        f"{unread} of {len(kept) * len(layers)} buffers are not in the files" if unread else "",
    )


def _difference(
    kind: str,
    name: str,
    stored: list[int],
    values: Sequence[int],
    others: Mapping[int, Sequence[int]],
) -> str:
    for other, theirs in others.items():
        if stored == list(theirs):
            return f"{name} holds the values of layer {other}: layers are swapped"
    if len(stored) != len(values):
        return f"{name} has {len(stored)} values, not {len(values)}"
    i = next(i for i, value in enumerate(values) if stored[i] != value)
    hint = "; they follow from seed and vocab_size: of another tokenizer or config?"
    return f"{name}[{i}] is {stored[i]}, not {values[i]}{hint if kind == 'factors' else ''}"


def _check_tokenizer(setting: Setting, tokenizer: str | Path | None, found: Released) -> Verdict:
    stated = setting.stated(found.stored.config)
    try:
        known = load_tokenizer(tokenizer or found.stored.folder or found.stored.name)
    except MissingFileError as error:
        return None, error.message
    token_map = compressed_map(known)
    size, digest = int(token_map.max()) + 1, map_digest(token_map)
    if size != stated:
        return False, (
            f"another tokenizer: its {len(token_map):,} ids compress to {size:,}, the config "
            f"states {stated!r}"
        )
    config = cast(EngramConfig, found.config)
    right = config.rules.known_maps.get((config.engram_vocab_size, size), digest)
    if digest != right:
        return False, f"another tokenizer: its map is {digest[:16]}..., not {right[:16]}..."
    return True, f"{len(token_map):,} ids compress to {size:,}, map {digest[:16]}..."
