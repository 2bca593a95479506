"""`RightFacts`: constants that a memory in GGUF has to state, by its tables and its release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from engram.addressing.addresses import Addresses, TokenMap, map_digest
from engram.addressing.primes import flat_primes, head_primes, stored_rows
from engram.addressing.tokenizer_files import TokenizerFile
from engram.addressing.vocabulary import compressed_map
from engram.checkpoints.gguf.constant_faults import config_like, drawn, kind_of
from engram.checkpoints.gguf.gguf_addresses import whole_numbers
from engram.checkpoints.gguf.gguf_facts import memory_facts
from engram.checkpoints.gguf.gguf_memory import GgufMemory
from engram.checkpoints.gguf.gguf_release import RELEASES, is_of_release, stated_numbers
from engram.config.engram_config import EngramConfig
from engram.config.templates import load_template
from engram.errors import MismatchError
from engram.layouts.gguf_dialect import GgufDialect
from engram.storage.row_encodings.known_encodings import ROW_ENCODINGS


@dataclass(frozen=True, eq=False)
class RightFacts:
    """The constants of a memory as they have to be.

    Attributes:
        memory: The file, in the dialect that it is in.
        dialect: The dialect that it is to be in.
        tokenizer: The model's tokenizer, for a token map that the file does not state rightly.
    """

    memory: GgufMemory
    dialect: GgufDialect
    tokenizer: TokenizerFile | None

    @cached_property
    def layer_ids(self) -> tuple[int, ...]:
        """Layers: those with tensors, else as stated, else the release's."""
        stated, found = self.memory.integers("layer_ids") or (), self.memory.tensor_layers
        if found and sorted(stated) != list(found):
            return found
        released = tuple(self._release.layer_ids or ())
        if not (found or self._counts_from_1) and self._numbers("primes") == flat_primes(
            self._release
        ):
            return released  # more constants are stated than layers, and none is to be lost
        return tuple(stated) or released

    @cached_property
    def config(self) -> EngramConfig | None:
        """The memory whose tables have the rows of the file's; None where no rule gives them."""
        fitting = [config for config in self._candidates() if self._fits(config)]
        stated = self._numbers("primes")
        # Without tables, what is stated tells one memory from another.
        as_stated = (config for config in fitting if flat_primes(config) == stated)
        return next(as_stated, next(iter(fitting), None))

    @property
    def needs_tokenizer(self) -> bool:
        """Whether the token map is to be stated, the file has no right one, and none was given."""
        return "token_map" in self.dialect.facts and self.token_map is None

    @cached_property
    def token_map(self) -> TokenMap | None:
        """Compressed id per token id, int32 ``[V]``: the file's, else the tokenizer's.

        Raises:
            MismatchError: The tokenizer is another one than the memory was made with.
        """
        if self.memory.layout.hashes == "raw":
            return None
        own, tokenizer = self._own_map(), self.tokenizer
        if own is None and tokenizer is not None:
            return self._map_of(tokenizer)
        if own is not None and tokenizer is not None:
            found = compressed_map(tokenizer)
            if map_digest(found[: len(own)]) != map_digest(own):
                raise MismatchError(
                    f"{tokenizer.name}: its token map is another than that of {self.memory.name}, "
                    "which has nothing wrong in it.",
                    "Give the model's own tokenizer, or leave -t out.",
                    ids=len(found),
                    expected_ids=len(own),
                )
        return own

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """The facts by our names, `pad_id` in the space of the dialect.

        Raises:
            MismatchError: See `token_map`.
        """
        facts: dict[str, Any] = {"present": True}
        if (encoding := self._encoding()) is not None:
            facts["encoding"] = encoding
        config, token_map = self.config, self.token_map
        if config is not None and (token_map is not None or self.memory.layout.hashes == "raw"):
            pad = None if token_map is None else self._pad(token_map)
            any_pad = 0 if pad is None else pad  # nothing but `pad_id` follows from it
            facts |= memory_facts(
                Addresses.from_config(self._with_own_vocab(config), token_map, any_pad),
                config.rows_per_head[0],
            )
            if pad is None:  # only its own file knows it
                facts.pop("pad_id", None)
            elif self.dialect.pad_is_raw:
                facts["pad_id"] = pad
            if not self._is_released:  # likewise
                facts.pop("eos_token_id", None)
        facts |= {"row_width": self._row_width(), "kernel_size": self._taps()}
        facts["layer_ids"] = list(self.layer_ids)
        if not self._knows_layers:
            del facts["layer_ids"]
        return {fact: value for fact, value in facts.items() if value is not None}

    @cached_property
    def _is_released(self) -> bool:
        return is_of_release(self.memory)

    def _with_own_vocab(self, config: EngramConfig) -> EngramConfig:
        """The memory with the file's vocabulary, where token ids of another model are hashed."""
        own = self.memory.vocab_size
        if self._is_released or self.memory.layout.hashes != "raw" or own is None:
            return config
        return replace(config, engram_vocab_size=own, eos_id=0)

    def takes(self, fact: str, stated: Any) -> bool:
        """Whether what a file states of a fact may stay.

        Args:
            fact: Its name.
            stated: Its value, a list or a single one.
        """
        if fact not in self.values:
            return True
        if fact == "rows" and self.config is not None:  # of the heads, or of the table
            reached = [sum(map(sum, heads)) for heads in head_primes(self.config).values()]
            both = [*zip(self.values[fact], reached, strict=True)]
            return len(stated) == len(both) and all(map(_is_among, stated, both))
        return bool(stated == self.values[fact])

    @property
    def _knows_layers(self) -> bool:
        """Whether layers are known as the file numbers them."""
        memory = self.memory
        return bool(memory.tensor_layers or memory.integers("layer_ids") or not self._counts_from_1)

    @property
    def _counts_from_1(self) -> bool:
        """Whether the layout's configs count layers from 1, and so may an engine."""
        return any(setting.counted_from for setting in self.memory.layout.released.settings)

    @property
    def _release(self) -> EngramConfig:
        return load_template(RELEASES[self.memory.layout.name])

    def _candidates(self) -> Iterator[EngramConfig]:
        """Memories of the shape that is stated, then of the release's, then of another."""
        memory, release = self.memory, self._release
        stated = (memory.integer("orders"), memory.integer("heads"))
        released = (release.max_ngram_size, release.n_head_per_ngram)
        # Three orders of eight heads have as many primes as two of twelve: where nothing but
        # numbers of constants tells, the release's shape comes first.
        shapes = [(stated[0] or released[0], stated[1] or released[1]), released, self._counted]
        primes = self._numbers("primes") or []
        bases = [memory.integer("size_base"), release.rows_per_head[0], *primes[:1]]
        for orders, heads in dict.fromkeys(shapes):
            for base in dict.fromkeys(it for it in bases if it):
                if orders > 1 and heads > 0:
                    config = config_like(release, self.layer_ids, orders, heads, base)
                    if config is not None:
                        yield config

    @property
    def _counted(self) -> tuple[int, int]:
        """Highest order and heads of one by the numbers of constants; 0 where they do not tell."""
        layers = len(self.layer_ids)
        primes, factors = self._numbers("primes") or [], self._numbers("multipliers") or []
        orders, rest = divmod(len(factors), layers or 1)
        heads, odd = divmod(len(primes), max(1, layers * (orders - 1)))
        return (0, 0) if rest or odd else (orders, heads)

    def _fits(self, config: EngramConfig) -> bool:
        """Whether a memory has the tables of the file."""
        rows = {
            layer_id: stored_rows(orders, config.row_multiple)
            for layer_id, orders in head_primes(config).items()
        }
        memory = self.memory
        if "{layer}" not in (memory.dialect.table or "{layer}"):  # one table, of the one layer
            return [table.rows for table in memory.tables] in ([], list(rows.values()))
        return all((table.layer_id, table.rows) in rows.items() for table in memory.tables)

    def _numbers(self, fact: str) -> list[int] | None:
        return stated_numbers(self.memory, fact)

    def _own_map(self) -> TokenMap | None:
        """The token map of the file; None where it is missing or not of this vocabulary."""
        numbers = self._numbers("token_map")
        if not numbers or self.memory.vocab_size not in (None, len(numbers)):
            return None
        wide = whole_numbers(numbers)
        used = np.unique(wide)
        if used[0] != 0 or used[-1] != len(used) - 1:
            return None
        token_map = wide.astype(np.int32)
        if not self._is_as_large_as_drawn_for(len(used)):
            return None
        known = self.memory.layout.known_maps.get((len(token_map), len(used)))
        if known not in (None, map_digest(token_map)):
            return None
        # Multipliers are drawn for the size of the map: of another map they would fit it, and not
        # the rows.
        draws = self._numbers("multipliers") is None
        return None if draws and self._is_of_no_release(token_map) else token_map

    def _is_as_large_as_drawn_for(self, size: int) -> bool:
        """Whether nothing tells that a token map has another size than the multipliers are for."""
        stated, factors = self.memory.integer("compressed_vocab_size"), self._numbers("multipliers")
        if stated in (None, size) or factors is None or self.config is None:
            return True
        return factors != drawn(self.config, stated)

    def _is_of_no_release(self, token_map: TokenMap) -> bool:
        """Whether the memory is the released one, and a token map is not."""
        config, count = self.config, len(token_map)
        maps = self.memory.layout.known_maps.items()
        known = [digest for (ids, _), digest in maps if ids == count]
        is_released = config is not None and flat_primes(config) == flat_primes(self._release)
        return is_released and bool(known) and map_digest(token_map) not in known

    def _map_of(self, tokenizer: TokenizerFile) -> TokenMap:
        """The token map of the tokenizer, for as many tokens as the file has."""
        found = compressed_map(tokenizer)
        count = self.memory.vocab_size or len(found)
        if len(found) < count:
            raise MismatchError(
                f"{tokenizer.name}: it has {len(found):,} ids, and the model {count:,} tokens.",
                "Give the model's own tokenizer.",
                ids=len(found),
                expected_ids=count,
            )
        found = found[:count]
        self._demand_drawn_for(tokenizer, int(found.max()) + 1)
        if self._is_of_no_release(found):
            raise MismatchError(
                f"{tokenizer.name}: its {count:,} ids compress to {int(found.max()) + 1:,}, in "
                "other groups than those of the release, whose tables these are.",
                f"Give the tokenizer of {self._release.tokenizer}.",
                map_sha256=map_digest(found),
            )
        return found

    def _demand_drawn_for(self, tokenizer: TokenizerFile, size: int) -> None:
        """Refuse a tokenizer that contradicts multipliers that nothing damaged.

        Raises:
            MismatchError: It does.
        """
        factors, config = self._numbers("multipliers"), self.config
        if not factors or config is None:
            return
        right = drawn(config, size)
        if factors == right or len(factors) != len(right):
            return
        if kind_of(factors, right, config, size) == "CONST_WRONG":
            raise MismatchError(
                f"{tokenizer.name}: its ids compress to {size:,}, and the multipliers in "
                f"{self.memory.name} are not drawn for that many.",
                "Give the model's own tokenizer.",
                compressed_vocab_size=size,
            )

    def _pad(self, token_map: TokenMap) -> int | None:
        """Token id of the pad: the release's, of another memory what is stated; None if unknown."""
        pad = self._release.pad_id
        if self._is_released and isinstance(pad, int) and pad < len(token_map):
            return pad
        stated = self.memory.integer("pad_id")
        if self.memory.dialect.pad_is_raw:
            return stated if stated is not None and 0 <= stated < len(token_map) else None
        return next(iter(np.flatnonzero(token_map == stated).tolist()), None)

    def _row_width(self) -> int | None:
        """Values of a row, as its table has them; of the release, where it is."""
        encoding = self._encoding()
        if encoding is not None:
            return ROW_ENCODINGS[encoding].block_values
        widths = [table.width for table in self.memory.tables if table.width is not None]
        released = self._release.row_width if self._is_released else None
        return next(iter(widths), self.memory.integer("row_width") or released)

    def _taps(self) -> int | None:
        """Taps of the convolution, as its tensors have them; of the release, where it is."""
        stated, released = self.memory.integer("kernel_size"), None
        if self._is_released:
            released = self._release.kernel_size
        return self.memory.taps or stated or released

    def _encoding(self) -> str | None:
        """The encoding of rows that are plain bytes in one tensor; None where it is not known."""
        tables = [it for it in self.memory.tables if it.is_bytes and it.scales is None]
        if not tables:
            return None
        stated, sizes = self.memory.text("encoding"), {it.values.row_bytes for it in tables}
        if stated is not None and stated not in ROW_ENCODINGS:
            return None  # of another kind, or half converted
        if stated is not None and {ROW_ENCODINGS[stated].block_bytes} == sizes:
            return stated
        whole = (it for it in ROW_ENCODINGS.values() if it.is_row and {it.block_bytes} == sizes)
        found = [it.name for it in whole]
        return found[0] if len(found) == 1 else None


def _is_among(rows: int, right: tuple[int, ...]) -> bool:
    return rows in right
