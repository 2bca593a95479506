"""Checks a memory's primes independently with sympy, for `verify` only.

Sizes are computed with the toolkit's own primality test (`primes.is_prime`), since importing sympy
takes longer than `engram size`. This module repeats the search with functions of sympy only.
"""

from collections.abc import Mapping, Sequence

from engram.config.engram_config import EngramConfig


def first_composite(heads: Sequence[int]) -> int | None:
    """Return the index of the first number that is not prime by sympy; None if all are."""
    from sympy import isprime

    return next((i for i, rows in enumerate(heads) if not isprime(rows)), None)


def doubt_of_primes(config: EngramConfig, heads: Mapping[int, Sequence[int]]) -> str | None:
    """Check with sympy that every head has the prime that follows from the config.

    Layers are visited in the order in which their layout assigns primes. Each head must have the
    first prime, from its nominal rows on, that no earlier head has.

    Args:
        config: The memory; the searches start at its `rows_per_head`.
        heads: By layer, the rows of its ``C`` columns, one order after the other. Layers are in
            hash order.

    Returns:
        The first problem as a sentence, or None.
    """
    from sympy import isprime, nextprime

    is_sorted = config.rules.prime_order == "sorted"
    taken: set[int] = set()
    last_of = {nominal: nominal - 1 for nominal in config.rows_per_head}
    for layer_id in sorted(heads) if is_sorted else heads:
        primes = iter(heads[layer_id])
        if len(heads[layer_id]) != config.n_columns:
            return f"layer {layer_id} has {len(heads[layer_id])} heads, not {config.n_columns}"
        for order, nominal in enumerate(config.rows_per_head, start=2):
            for head in range(config.n_head_per_ngram):
                got, right = next(primes), nextprime(last_of[nominal])
                while right in taken:
                    right = nextprime(right)
                if got != right:
                    where = f"layer {layer_id}, order {order}, head {head}"
                    if not isprime(got):
                        return f"{where}: {got} is not prime; {right} is next"
                    return f"{where}: {got} is not the next prime that is free, {right}"
                taken.add(right)
                last_of[nominal] = right
    return None
