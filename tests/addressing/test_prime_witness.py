"""sympy's word on a memory's primes: right lists pass, every kind of wrong one is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sympy import nextprime

from engram.addressing.prime_witness import doubt_of_primes, first_composite
from engram.addressing.primes import head_primes
from engram.config.templates import load_template

ROWS = [[64, 64], [64, 72], [4000, 2400], [2**31, 2**31 + 40], [2**59, 2**45]]
CASES = [*(("demo", rows) for rows in ROWS), *(("qwen_ple", rows[:1] * 2) for rows in ROWS[1:])]


def memory(rows, layout="demo", layers=(7, 1, 4)):
    """A config of two orders with four heads each."""
    config = load_template("qwen3.8-flash-next" if layout == "qwen_ple" else "gpt2")
    changes = {"engram_table_size": rows, "layer_ids": list(layers), "n_head_per_ngram": 4}
    return replace(config, **changes)


def heads_of(config):
    return {
        layer: [rows for order in primes for rows in order]
        for layer, primes in head_primes(config).items()
    }


@pytest.mark.parametrize(("layout", "rows"), CASES, ids=str)
def test_right_primes(layout, rows):
    config = memory(rows, layout)
    assert doubt_of_primes(config, heads_of(config)) is None


def test_the_order_of_layers_is_the_layouts():
    """The demo hands primes out as layers are listed; Qwen's per-layer embedding sorts them."""
    for layout, other in (("demo", "qwen_ple"), ("qwen_ple", "demo")):
        heads = heads_of(memory([4000, 4000], layout))
        doubt = doubt_of_primes(memory([4000, 4000], other), heads)
        assert "is not the next prime that is free" in doubt


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize(
    ("place", "where"), [(0, "order 2, head 0"), (5, "order 3, head 1"), (7, "order 3, head 3")]
)
def test_wrong_primes_are_named(rows, place, where):
    config = memory(rows)
    right = heads_of(config)
    for layer in right:
        prime = right[layer][place]
        wrong = {
            prime + 1: f"{prime + 1} is not prime; {prime} is next",
            nextprime(prime): f"is not the next prime that is free, {prime}",
        }
        for value, words in wrong.items():
            heads = {**right, layer: [*right[layer][:place], value, *right[layer][place + 1 :]]}
            doubt = doubt_of_primes(config, heads)
            assert doubt.startswith(f"layer {layer}, {where}: ")
            assert doubt.endswith(words)


def test_a_skipped_prime_that_moves_all_others():
    """Sizes that are all prime and all different, and still not those of the rule."""
    config = memory([4000, 2400], layers=(1,))
    heads = heads_of(config)[1]
    skipped = [*heads[1:4], nextprime(heads[3]), *heads[4:]]
    assert first_composite(skipped) is None
    assert "order 2, head 0: 1013 is not the next prime" in doubt_of_primes(config, {1: skipped})


def test_a_missing_head():
    config = memory([64, 64], layers=(1,))
    assert doubt_of_primes(config, {1: [17, 19]}) == "layer 1 has 2 heads, not 8"


def test_the_first_composite():
    assert first_composite([2, 3, 2**61 - 1]) is None
    assert first_composite([2, 3, 2**61 + 1, 4]) == 2
    assert first_composite([7, -7]) == 1
    assert first_composite([1]) == 0
