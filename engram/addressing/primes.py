"""Prime table sizes: one prime per layer, order and head, all different in a model."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import count, islice

from engram.config.config_rules import too_many_heads
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError

# These bases decide primality for every n below 3.3e24 (Sorenson and Webster, 2015).
_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)


@lru_cache(maxsize=2**17)  # a search for a table size tries nearly the same numbers again
def is_prime(n: int) -> bool:
    """Decide whether n is prime: deterministic Miller-Rabin, exact for n < 3.3e24."""
    if n < 2:
        return False
    for p in _WITNESSES:
        if n % p == 0:
            return n == p
    twos = (n - 1 & 1 - n).bit_length() - 1
    odd = n - 1 >> twos
    for witness in _WITNESSES:
        power = pow(witness, odd, n)
        if power in (1, n - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % n
            if power == n - 1:
                break
        else:
            return False
    return True


class HeadPrimes(list[list[int]]):
    """The primes of one layer, ``[order][head]``, with the layer's id and index.

    Attributes:
        layer_id: The layer (0-based) in the backbone.
        slot: The layer's index among the tokenizer's layer ids, on the L axis of 4-D hash ids.
    """

    def __init__(self, primes: Sequence[Sequence[int]], layer_id: int, slot: int) -> None:
        super().__init__(list(row) for row in primes)
        self.layer_id = layer_id
        self.slot = slot


def head_primes(
    config: EngramConfig, layer_ids: Sequence[int] | None = None
) -> dict[int, HeadPrimes]:
    """Assign every head of every layer its prime.

    Going through layers, then orders, then heads, each head takes the next prime that no earlier
    head has; each order starts at its nominal rows per head, which may be taken itself (the rule of
    the reference demo, which the other layouts share).

    Args:
        config: The memory; the searches start at its `rows_per_head`.
        layer_ids: Layers in hash order; those of the config when None.

    Returns:
        ``[order][head]`` primes per layer, in the order of `layer_ids`.

    Raises:
        LayoutError: There are too many layers, or heads in all of them.
    """
    ids = list(config.layer_ids if layer_ids is None else layer_ids)
    if too_many := too_many_heads(len(ids), config.n_columns):
        raise LayoutError(f"{too_many[0].upper()}{too_many[1:]}.", "Give fewer layers.")
    walk = sorted(ids) if config.rules.prime_order == "sorted" else ids
    seen: set[int] = set()
    found: dict[int, list[list[int]]] = {}
    resume: dict[int, int] = {}
    for layer_id in walk:
        found[layer_id] = []
        for nominal in config.rows_per_head:
            # All primes between the nominal size and the last prime taken from there are used
            # already.
            candidates = count(resume.get(nominal, nominal - 1) + 1)
            free = (each for each in candidates if each not in seen and is_prime(each))
            primes = list(islice(free, config.n_head_per_ngram))
            seen.update(primes)
            resume[nominal] = primes[-1]
            found[layer_id].append(primes)
    return {
        layer_id: HeadPrimes(found[layer_id], layer_id, slot) for slot, layer_id in enumerate(ids)
    }


def flat_primes(config: EngramConfig) -> list[int]:
    """Return the primes of all heads: by layer in hash order, then by order, then by head."""
    return [prime for heads in head_primes(config).values() for order in heads for prime in order]


def stored_rows(primes: Sequence[Sequence[int]], row_multiple: int) -> int:
    """Return a layer's stored rows: the sum of its primes, rounded up to `row_multiple`."""
    return -(-sum(map(sum, primes)) // row_multiple) * row_multiple
