"""Our primes are sympy's, which we do not import: its start-up takes longer than `engram size`."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from sympy import isprime, nextprime, prevprime

from engram.addressing.primes import head_primes, is_prime
from engram.config.templates import load_template
from engram.errors import ConfigError, LayoutError

# The smallest strong pseudoprimes to all of the first 1, 2, ... 12 prime bases (OEIS A014233).
STRONG_PSEUDOPRIMES = (
    *(2047, 1373653, 25326001, 3215031751, 2152302898747, 3474749660383, 341550071728321),
    *(3825123056546413051, 318665857834031151167461),
)


def test_strong_pseudoprimes_are_no_primes():
    for number in STRONG_PSEUDOPRIMES:
        assert not isprime(number)
        assert not is_prime(number)


def test_small_numbers():
    for number in range(-3, 20_000):
        assert is_prime(number) == isprime(number), number


def test_random_numbers_of_every_size():
    draw = random.Random(7)
    found = 0
    for bits in range(8, 64):
        for _ in range(60):
            number = draw.randrange(2 ** (bits - 1), 2**bits) | 1
            assert is_prime(number) == isprime(number), number
            found += isprime(number)
    assert found > 100


def test_numbers_that_only_large_factors_divide():
    draw = random.Random(8)
    for _ in range(300):
        first = nextprime(draw.randrange(2**20, 2**31))
        second = nextprime(draw.randrange(2**20, 2**31))
        assert is_prime(first)
        assert not is_prime(first * second)
        assert not is_prime(first * first)


@pytest.mark.parametrize("power", [31, 32, 40, 53, 61, 62, 63])
def test_around_powers_of_two(power):
    for prime in (prevprime(2**power), nextprime(2**power)):
        assert is_prime(prime)
    for number in range(prevprime(2**power) + 1, nextprime(2**power)):
        assert not is_prime(number)


def by_sympy(config):
    """The primes of every head: the next one that no head before it has."""
    taken = set()
    layers = []
    for _ in config.layer_ids:
        orders = []
        for nominal in config.rows_per_head:
            heads, last = [], nominal - 1
            while len(heads) < config.n_head_per_ngram:
                last = nextprime(last)
                if last not in taken:
                    taken.add(last)
                    heads.append(last)
            orders.append(heads)
        layers.append(orders)
    return layers


def sizes():
    draw = random.Random(9)
    for exponent in (5, 8, 12, 20, 30, 45, 58):
        sizes = [draw.randrange(2**exponent, 2 ** (exponent + 1)) for _ in range(2)]
        yield sizes
        yield [sizes[0], sizes[0]]
        yield [sizes[0], sizes[0] + 24]  # the orders' searches run into each other


@pytest.mark.parametrize("rows", list(sizes()), ids=str)
def test_heads_take_the_next_prime_that_is_free(rows):
    layers = [3, 1, 7]
    config = replace(load_template("gpt2"), engram_table_size=rows, layer_ids=layers)
    config = replace(config, n_head_per_ngram=4)
    found = head_primes(config)
    assert list(found) == layers
    assert [[list(heads) for heads in found[i]] for i in layers] == by_sympy(config)


def test_more_layers_or_heads_than_any_model_has_are_refused():
    config = load_template("gpt2")
    with pytest.raises(ConfigError, match="layer_ids: 100,000 layers; at most 1,024"):
        replace(config, layer_ids=list(range(100_000)))
    with pytest.raises(LayoutError, match="100,000 layers; at most 1,024"):
        head_primes(config, range(100_000))
    wide = replace(config, n_head_per_ngram=64, n_embed_per_ngram=64)
    with pytest.raises(ConfigError, match=r"600 layers of 128 heads are 76,800; at most 65,536"):
        replace(wide, layer_ids=list(range(600)))
    assert len(head_primes(config, range(1024))) == 1024
