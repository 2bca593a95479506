"""Times the hash against the reference demo's numpy form, and the compressed map against its loop.

3-grams, 8 heads, 2 layers: 32 ids a token, look-up in the compressed vocabulary included, into one
output that is used again. Rounds of all forms are interleaved, ten calls in a row at 64k tokens,
and a ratio is the median over rounds, so that a busy machine slows both sides; two threads need two
idle cores all the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measured import Ratio, finish, interleaved, parser_of, times_as_fast
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.addressing.tokenizer_files import load_tokenizer
from engram.addressing.vocabulary import build_map
from engram.config.engram_config import EngramConfig

V, COMPRESSED = 128_815, 98_627  # the sizes of DeepSeek-V3's tokenizer
TOKENS, MANY_TOKENS = 65_536, 1_048_576


def make_addresses() -> Addresses:
    """Return the demo's default memory, with a random token map of the right sizes."""
    draw = np.random.default_rng(0).integers(0, COMPRESSED, V - COMPRESSED)
    token_map = np.concatenate([np.arange(COMPRESSED), draw]).astype(np.int32)
    config = EngramConfig(
        hidden_size=1024,
        engram_vocab_size=V,
        engram_table_size=[646_400 * 8] * 2,
        layer_ids=[1, 15],
        pad_id=2,
        seed=0,
    )
    return Addresses.from_config(config, token_map, 2)


def demo_form(addresses: Addresses) -> Callable[[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Return the hash as engram_demo_v1.py writes it: one pass of numpy over everything a step."""
    lookup = np.asarray(addresses.token_map, dtype=np.int64)
    pad, orders = addresses.fill, addresses.max_ngram_size

    def hash_layer(ids: NDArray[np.int64], layer: Any) -> NDArray[np.int64]:
        length = ids.shape[1]

        def shift(k: int) -> NDArray[np.int64]:
            if k == 0:
                return ids
            return np.pad(ids, ((0, 0), (k, 0)), constant_values=pad)[:, :length]

        shifted = [shift(k) for k in range(orders)]
        factors = np.array(layer.multipliers, dtype=np.int64)
        columns = []
        for n in range(2, orders + 1):
            tokens = shifted[:n]
            mix = tokens[0] * factors[0]
            for k in range(1, n):
                mix = np.bitwise_xor(mix, tokens[k] * factors[k])
            for prime in layer.primes[n - 2]:
                columns.append((mix % int(prime)).astype(np.int64, copy=False))
        return np.stack(columns, axis=2)

    def run(ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        out = ids.copy()
        is_id = ids >= 0
        out[is_id] = lookup[ids[is_id]]
        return [hash_layer(out, layer) for layer in addresses.layers]

    return run


def demo_loop(tokenizer: Any, normaliser: Any, size: int) -> NDArray[np.int64]:
    """Build the compressed map as engram_demo_v1.py does: a call and a half for every id."""
    numbers: dict[str, int] = {}
    lookup = np.empty(size, dtype=np.int64)
    for i in range(size):
        text = tokenizer.decode([i], skip_special_tokens=False)
        if "\ufffd" in text:
            key = tokenizer.convert_ids_to_tokens(i)
        else:
            normal = normaliser.normalize_str(text)
            key = normal if normal else text
        lookup[i] = numbers.setdefault(key, len(numbers))
    return lookup


def demo_normaliser() -> Any:
    """Return the demo's normaliser."""
    from tokenizers import Regex, normalizers

    return normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[ \t\r\n]+"), " "),
            normalizers.Replace(Regex(r"^ $"), "\ue000"),
            normalizers.Strip(),
            normalizers.Replace("\ue000", " "),
        ]
    )


def hash_ratios(addresses: Addresses, rounds: int, tokens: int) -> list[Ratio]:
    """Measure 64k tokens on one and two threads, many tokens beside memset, and one token."""
    ids = np.random.default_rng(1).integers(0, V, (1, tokens))
    some, one = np.ascontiguousarray(ids[:, :TOKENS]), ids[:, :1].copy()
    demo = demo_form(addresses)
    one_thread = Hasher(addresses, form="numba")
    two_threads = Hasher(addresses, form="numba", threads=2)
    out64 = np.empty((1, TOKENS, 2, 16), dtype=np.int64)
    out32 = np.empty((1, TOKENS, 2, 16), dtype=np.int32)
    expected = np.stack(demo(some), axis=2)
    for hasher in (one_thread, two_threads):
        assert np.array_equal(hasher.hash(some, out=out64)[0], expected)
    runs: dict[str, Callable[[], Any]] = {
        "demo": lambda: demo(some),
        "one": lambda: one_thread.hash(some, out=out64),
        "int32": lambda: one_thread.hash(some, out=out32),
        "two": lambda: two_threads.hash(some, out=out64),
    }
    # Ten calls in a row: a corpus is hashed by thousands.
    seconds = interleaved(runs, rounds, calls=10)
    ratios = [
        _ratio("hash-64k-one-thread", "64k tokens on one thread", seconds, "demo", "one", 10),
        _ratio("hash-64k-int32", "64k tokens to int32, one thread", seconds, "demo", "int32"),
        _ratio("hash-64k-two-threads", "64k tokens on two threads", seconds, "demo", "two", 20),
    ]
    many = np.empty((1, tokens, 2, 16), dtype=np.int64)
    runs = {
        "memset": lambda: many.fill(0),
        "one": lambda: one_thread.hash(ids, out=many),
        "two": lambda: two_threads.hash(ids, out=many),
    }
    seconds = interleaved(runs, rounds)
    size = f"{tokens / 2**20:g}M tokens"
    ratios += [
        _ratio("hash-1m-one-thread", f"{size} on one thread", seconds, "memset", "one", 0.6),
        _ratio("hash-1m-two-threads", f"{size} on two threads", seconds, "memset", "two"),
    ]
    _, history = one_thread.hash(one)
    runs = {"demo": lambda: demo(one), "one": lambda: one_thread.hash(one, history=history)}
    seconds = interleaved(runs, rounds, calls=2000)
    ratios.append(_ratio("hash-one-token", "one token", seconds, "demo", "one", 50))
    return ratios


AGAINST = {
    "demo": "the reference demo's numpy form",
    "memset": "memset of the same output on one thread",
}


def _ratio(
    key: str,
    what: str,
    seconds: dict[str, list[float]],
    base: str,
    name: str,
    at_least: float | None = None,
) -> Ratio:
    ratios = times_as_fast(seconds[base], seconds[name])
    note = f"{min(seconds[name]) * 1e6:.4g} us a call at best; {min(seconds[base]) * 1e6:.4g} us"
    return Ratio(key, f"hash of {what}", AGAINST[base], ratios, at_least, note=note)


def map_ratio(folder: Path, rounds: int) -> Ratio:
    """Measure the compressed map of a tokenizer."""
    from transformers import AutoTokenizer

    mine, auto = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    size, normaliser = mine.vocab_size, demo_normaliser()
    assert np.array_equal(build_map(mine.tokenizer, size), demo_loop(auto, normaliser, size))
    runs = {
        "demo": lambda: demo_loop(auto, normaliser, size),
        "engram": lambda: build_map(mine.tokenizer, size),
    }
    seconds = interleaved(runs, rounds)
    return Ratio(
        "compressed-map",
        f"compressed map of {size:,} ids",
        "the reference demo's loop",
        times_as_fast(seconds["demo"], seconds["engram"]),
        at_least=1.7,
        note=f"{min(seconds['engram']):.2f} s at best; {min(seconds['demo']):.2f} s",
    )


def main() -> None:
    """Run the benchmark."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=Path(os.environ.get("ENGRAM_ASSETS", ".assets")) / "tokenizers" / "deepseek-v4",
        help="folder of a tokenizer, for the compressed map",
    )
    args = parser.parse_args()
    rounds = min(args.rounds, 3) if args.quick else args.rounds
    ratios = hash_ratios(make_addresses(), rounds, MANY_TOKENS)
    if args.quick or not args.tokenizer.is_dir():
        print("no compressed map: --quick, or there is no tokenizer at", args.tokenizer)
    else:
        ratios.append(map_ratio(args.tokenizer, rounds))
    finish(ratios, args.json)


if __name__ == "__main__":
    main()
