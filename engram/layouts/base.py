"""`Layout`: what tells one published family from another, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Literal

from engram.config.engram_config import EngramConfig


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Rules of a published family.

    All share the mix ``x_t*m0 ^ x_{t-1}*m1 ^ ...`` and tables of prime sizes.

    Attributes:
        name: Name in configs.
        title: One line for people.
        source: The file or paper that the rules come from.
        hashes: Whether ids are first mapped to the compressed vocabulary.
        multiplier_draw: Generator of the hash multipliers.
        multiplier_key: What is added (times 10007) to the seed: the layer's id, or its index among
            the sorted ids.
        prime_order: Whether tables take their primes in the order of `layer_ids`, or in ascending
            order of layers.
        fill: Token that is read where looking back is blocked: the pad or the end-of-text token.
        ends_after_eos: Look-back does not reach an end-of-text token, nor past it.
        masked: Meaning of masked tokens inside a row: ``absent``: they are passed over, by the hash
            and by the convolution; ``dead``: look-back stops at them, and they hold their place.
        residual_included: The module returns the hidden state plus the memory, instead of the
            memory alone.
        dense_shapes: Tensors of one layer's module without its table: name and shape.
    """

    name: str
    title: str
    source: str
    hashes: Literal["compressed", "raw"]
    multiplier_draw: Literal["pcg64", "splitmix64"]
    multiplier_key: Literal["layer_id", "index"]
    prime_order: Literal["given", "sorted"]
    fill: Literal["pad", "eos"]
    ends_after_eos: bool
    masked: Literal["absent", "dead"]
    residual_included: bool
    dense_shapes: Callable[[EngramConfig], dict[str, tuple[int, ...]]]

    @property
    def closes_gaps(self) -> bool:
        """Whether masked tokens inside a row are passed over."""
        return self.masked == "absent"

    def dense_parts(self, config: EngramConfig) -> dict[str, int]:
        """Count the parameters of one layer's module without its table, part by part."""
        parts: dict[str, int] = {}
        for name, shape in self.dense_shapes(config).items():
            part = name.split(".")[0]
            parts[part] = parts.get(part, 0) + prod(shape)
        return parts
