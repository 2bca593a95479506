"""`ConstantJudge`: constants in GGUF against those that their layout calls for, entry by entry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import map_digest
from engram.addressing.multipliers import multipliers
from engram.addressing.primes import flat_primes
from engram.checkpoints.gguf.file_faults import Fault
from engram.checkpoints.gguf.gguf_addresses import whole_numbers
from engram.checkpoints.gguf.gguf_memory import GgufMemory
from engram.checkpoints.gguf.gguf_release import RELEASES, is_of_release, stated_numbers
from engram.config.engram_config import EngramConfig
from engram.config.templates import load_template
from engram.errors import ConfigError, LayoutError


@dataclass(frozen=True, eq=False)
class ConstantJudge:
    """Compares the constants of a file with those that its layout calls for.

    Attributes:
        memory: The file.
    """

    memory: GgufMemory

    def rows(self) -> Iterator[Fault]:
        """Heads, offsets and stated rows against the tables."""
        memory, layer_ids = self.memory, self.memory.layer_ids
        primes, columns = self._numbers("primes"), memory.columns
        if primes is None or columns is None or not layer_ids:
            return
        if len(primes) != columns * len(layer_ids):
            yield Fault(
                "CONST_COUNT",
                f"{len(primes)} primes are stated for {len(layer_ids)} layers of {columns} heads",
                f"Write {columns * len(layer_ids)} of them.",
            )
            return
        offsets, expected = self._numbers("offsets"), []
        rows = memory.integers("rows") or []
        if rows and len(rows) != len(layer_ids):
            yield Fault(
                "CONST_COUNT",
                f"rows are stated for {len(rows)} of {len(layer_ids)} layers",
                "Write those of each layer.",
            )
        tables = {table.layer_id: table for table in memory.tables}
        multiple = memory.layout.row_multiple
        for place, layer_id in enumerate(layer_ids):
            own = primes[place * columns : (place + 1) * columns]
            expected += [sum(own[:at]) for at in range(columns)]
            table = tables.get(layer_id)
            needed = -(-sum(own) // multiple) * multiple
            if place < len(rows) and rows[place] not in (sum(own), needed):
                yield Fault(
                    "ROW_RANGE",
                    f"layer {layer_id}: its heads have {sum(own):,} rows, and {rows[place]:,} are "
                    "stated",
                    f"Write {needed:,}.",
                )
            if table is not None and table.rows != needed:
                yield Fault(
                    "ROW_RANGE",
                    f"layer {layer_id}: its heads have {sum(own):,} rows, its table {table.rows:,}",
                    "Write the primes that the table was made with.",
                )
        if offsets is not None and offsets != expected:
            first = _first(offsets, expected)
            yield Fault(
                "OFFSETS_WRONG",
                f"offset {first} is not the sum of the primes before it in its layer",
                "Write running sums that begin anew with each layer.",
            )

    def sizes(self) -> Iterator[Fault]:
        """Primes against the rule that finds them."""
        primes, config = self._numbers("primes"), self._config()
        if primes is None or config is None:
            return
        right = flat_primes(config)
        if primes != right:
            first = _first(primes, right)
            yield Fault(
                "CONST_WRONG",
                f"prime {first} is {primes[first]:,}, and the rule gives {right[first]:,}",
                "Write the primes that the table was made with.",
            )

    def factors(self) -> Iterator[Fault]:
        """Multipliers against the generator of the layout."""
        found, config = self._numbers("multipliers"), self._config()
        sizes = self._vocab_sizes()
        if found is None or config is None or not sizes:
            return
        if any(found == drawn(config, size) for size in sizes):
            return
        right = drawn(config, sizes[0])
        yield Fault(kind_of(found, right, config, sizes[0]), *_told(found, right))

    def token_map(self) -> Iterator[Fault]:
        """Length, range and digest of the token map."""
        token_map = self._token_map()
        if token_map is None:
            return
        stated = self.memory.integer("compressed_vocab_size")
        size = int(token_map.max(initial=-1)) + 1 if stated is None else stated
        tokens = self.memory.vocab_size
        if tokens is not None and tokens != len(token_map):
            yield Fault(
                "MAP_LEN",
                f"the token map has {len(token_map):,} entries, and the file {tokens:,} tokens",
                "Write an entry for every token.",
            )
        used = np.unique(token_map)
        if len(used) != size or used[0] != 0 or used[-1] != size - 1:
            yield Fault(
                "MAP_RANGE",
                f"entries of the token map go from {used[0]:,} to {used[-1]:,} in {len(used):,} "
                f"values, and {size:,} compressed ids are stated",
                "Write the map that the memory was trained with.",
            )
            return
        known = self.memory.layout.known_maps.get((len(token_map), size))
        digest = map_digest(token_map.astype(np.int32))
        if known is not None and digest != known:
            yield Fault(
                "TOKENIZER_REV",
                f"the token map has the digest {digest[:16]}..., that of the release is "
                f"{known[:16]}...: it is of another revision of the tokenizer",
                f"Write the map of {RELEASES[self.memory.layout.name]}: engram constants.",
            )

    def pad(self) -> Iterator[Fault]:
        """Id of the pad, in the space that the dialect has it in."""
        stated, token_map, raw = (
            self.memory.integer("pad_id"),
            self._token_map(),
            self._release.pad_id,
        )
        if stated is None or token_map is None:
            return
        is_raw = self.memory.dialect.pad_is_raw
        if not isinstance(raw, int) or raw >= len(token_map) or not is_of_release(self.memory):
            yield from self._pad_range(
                stated, len(token_map) if is_raw else int(token_map.max()) + 1
            )
            return
        mapped = int(token_map[raw])
        right, other = (raw, mapped) if is_raw else (mapped, raw)
        if stated != right:
            space = "token ids" if is_raw else "compressed ids"
            yield Fault(
                "PAD_SPACE" if stated == other else "CONST_WRONG",
                f"the pad is stated as {stated}, and is {right} among {space}",
                f"Write {right}.",
            )

    def _pad_range(self, stated: int, count: int) -> Iterator[Fault]:
        """All that tells of the pad of another memory than the released one."""
        if not 0 <= stated < count:
            yield Fault(
                "CONST_WRONG",
                f"the pad is stated as {stated}, and ids are 0..{count - 1:,}",
                "Write the pad that the memory was trained with.",
            )

    def kernel(self) -> Iterator[Fault]:
        """Taps of the convolution, against its tensors."""
        stated, taps = self.memory.integer("kernel_size"), self.memory.taps
        if stated is not None and taps is not None and stated != taps:
            yield Fault(
                "CONST_WRONG",
                f"{stated} taps of the convolution are stated, and its tensor has {taps}",
                f"Write {taps}.",
            )

    def end(self) -> Iterator[Fault]:
        """Id of the token that ends documents."""
        stated, right = self.memory.integer("eos_token_id"), self._release.eos_id
        if stated is not None and stated != right and is_of_release(self.memory):
            yield Fault(
                "EOS_WRONG",
                f"token {stated} ends documents, in the release it is {right}",
                f"Write {right}: the token that ends a turn of a chat is another one.",
            )

    @property
    def _release(self) -> EngramConfig:
        return load_template(RELEASES[self.memory.layout.name])

    def _numbers(self, fact: str) -> list[int] | None:
        return stated_numbers(self.memory, fact)

    def _token_map(self) -> NDArray[np.int64] | None:
        numbers = self._numbers("token_map")
        return whole_numbers(numbers) if numbers else None

    def _vocab_sizes(self) -> list[int]:
        """Sizes that the vocabulary that is hashed may have, the likeliest first."""
        if self.memory.layout.hashes == "raw":
            own = self.memory.vocab_size
            return [self._release.engram_vocab_size, *([own] if own else [])]
        stated, token_map = self.memory.integer("compressed_vocab_size"), self._token_map()
        size = stated if stated or token_map is None else int(token_map.max()) + 1
        return [size] if size and size > 0 else []

    def _config(self) -> EngramConfig | None:
        """Describe the memory by what the file states; None where it does not state enough."""
        memory, primes, release = self.memory, self._numbers("primes"), self._release
        # The search for primes begins at the stated size; it may begin at the first of them.
        first = memory.integer("size_base") or (primes[0] if primes else None)
        if not memory.tables and memory.dialect.table is None and not memory.integer("size_base"):
            first = release.rows_per_head[0]  # nothing else tells where the primes begin
        if not (memory.columns and memory.layer_ids and first):
            return None
        if primes is not None and len(primes) != memory.columns * len(memory.layer_ids):
            return None
        return config_like(release, memory.layer_ids, memory.orders or 2, memory.heads or 1, first)


def config_like(
    release: EngramConfig, layer_ids: Sequence[int], orders: int, heads: int, rows_per_head: int
) -> EngramConfig | None:
    """Describe a memory of other sizes than the released one.

    Args:
        release: The released memory of its layout.
        layer_ids: Its layers.
        orders: The highest n-gram order.
        heads: Heads of an order.
        rows_per_head: Rows of a head, at which the search for primes begins.

    Returns:
        Its config; None where the layout cannot have these sizes.
    """
    try:
        return EngramConfig.from_dict(
            {
                **release.to_dict(),
                "layer_ids": list(layer_ids),
                "max_ngram_size": orders,
                "n_head_per_ngram": heads,
                "n_embed_per_ngram": heads * release.row_width,
                "engram_table_size": [heads * rows_per_head] * (orders - 1),
            }
        )
    except (ConfigError, LayoutError):
        return None


def drawn(config: EngramConfig, vocab_size: int) -> list[int]:
    """Draw the multipliers of all layers for a vocabulary."""
    return [factor for draw in multipliers(config, vocab_size).values() for factor in draw]


def kind_of(
    found: Sequence[int], right: Sequence[int], config: EngramConfig, vocab_size: int
) -> str:
    """Name the way in which multipliers are wrong: CONST_WRONG where none is known.

    Args:
        found: Those that are stated.
        right: Those that the layout's generator draws.
        config: The memory.
        vocab_size: Size of the vocabulary that is hashed.
    """
    if all(abs(factor) < 2**32 for factor in found):
        return "INT32_MULT"
    if found == [int(np.float32(factor)) for factor in right]:
        return "FLOAT_CAST"
    unseeded = EngramConfig.from_dict({**config.to_dict(), "seed": 0})
    if not config.rules.seed_is_fixed and found == drawn(unseeded, vocab_size):
        return "SEED_DEFAULT"
    return "CONST_WRONG"


def _told(found: Sequence[int], right: Sequence[int]) -> tuple[str, str]:
    """The message and the repair of wrong multipliers."""
    if len(found) != len(right):
        return f"{len(found)} multipliers are stated, not {len(right)}", f"Write {len(right)}."
    first = _first(found, right)
    return (
        f"multiplier {first} is {found[first]}, and the layout's generator gives {right[first]}",
        "Write the multipliers that the memory was trained with, as whole numbers of 64 bits.",
    )


def _first(found: Sequence[int], right: Sequence[int]) -> int:
    """Index of the first entry that differs."""
    pairs = enumerate(zip(found, right, strict=False))
    return next((i for i, (one, other) in pairs if one != other), 0)
