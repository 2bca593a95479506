"""Times the hash against the reference demo's numpy form, and the compressed map against its loop.

3-grams, 8 heads, 2 layers: 32 ids a token, look-up in the compressed vocabulary included, into one
output that is used again. Rounds of all forms are interleaved, ten calls in a row at 64k tokens,
and a ratio is the median over rounds, so that a busy machine slows both sides; two threads need two
idle cores all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.hashing import Hasher
from engram.addressing.tokenizer_files import load_tokenizer
from engram.addressing.vocabulary import build_map
from engram.config.engram_config import EngramConfig

V, COMPRESSED = 128_815, 98_627  # the sizes of DeepSeek-V3's tokenizer
TOKENS, MANY_TOKENS = 65_536, 1_048_576
IDS_PER_TOKEN = 32


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


def rounds(
    runs: dict[str, Callable[[], Any]], count: int, calls: int = 1
) -> dict[str, list[float]]:
    """Time every run once a round.

    Returns:
        Seconds a call, by name and round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(count):
        for name, run in runs.items():
            begin = time.perf_counter()
            for _ in range(calls):
                run()
            seconds[name].append((time.perf_counter() - begin) / calls)
    return seconds


def report(
    title: str, seconds: dict[str, list[float]], base: str, per: int, unit: str, scale: float
) -> dict[str, Any]:
    """Print a table: seconds per something, and how many times as fast as the base."""
    print(f"\n{title}")
    rows = {}
    for name, times in seconds.items():
        ratio = statistics.median(b / t for b, t in zip(seconds[base], times, strict=True))
        best = min(times) / per * scale
        rows[name] = {unit.replace(" ", "_"): round(best, 4), f"times_{base}": round(ratio, 3)}
        print(f"  {name:28}{best:10.3f} {unit}{ratio:10.2f} x {base}")
    return rows


def bench_tokens(addresses: Addresses, count: int) -> dict[str, Any]:
    """Time 64k tokens, 1M tokens and one token."""
    ids = np.random.default_rng(1).integers(0, V, (1, MANY_TOKENS))
    some, one = np.ascontiguousarray(ids[:, :TOKENS]), ids[:, :1].copy()
    demo = demo_form(addresses)
    one_thread = Hasher(addresses, form="numba")
    two_threads = Hasher(addresses, form="numba", threads=2)
    in_numpy = Hasher(addresses, form="numpy")
    out64 = np.empty((1, TOKENS, 2, 16), dtype=np.int64)
    out32 = np.empty((1, TOKENS, 2, 16), dtype=np.int32)
    expected = np.stack(demo(some), axis=2)
    for hasher in (one_thread, two_threads, in_numpy):
        assert np.array_equal(hasher.hash(some, out=out64)[0], expected)
    runs: dict[str, Callable[[], Any]] = {
        "demo": lambda: demo(some),
        "numpy": lambda: in_numpy.hash(some, out=out64),
        "numba": lambda: one_thread.hash(some, out=out64),
        "numba int32": lambda: one_thread.hash(some, out=out32),
        "numba 2 threads": lambda: two_threads.hash(some, out=out64),
    }
    # Ten calls in a row: a corpus is hashed by thousands.
    results = {"64k": _hash_table("64k tokens", runs, count, "demo", TOKENS, calls=10)}
    many = np.empty((1, MANY_TOKENS, 2, 16), dtype=np.int64)
    runs = {
        "memset": lambda: many.fill(0),
        "numba": lambda: one_thread.hash(ids, out=many),
        "numba 2 threads": lambda: two_threads.hash(ids, out=many),
    }
    results["1M"] = _hash_table("1M tokens", runs, count, "memset", MANY_TOKENS)
    _, history = one_thread.hash(one)
    runs = {
        "demo": lambda: demo(one),
        "numpy": lambda: in_numpy.hash(one, history=history),
        "numba": lambda: one_thread.hash(one, history=history),
    }
    seconds = rounds(runs, count, calls=500)
    results["one"] = report("one token", seconds, "demo", 1, "us", 1e6)
    return results


def _hash_table(
    title: str,
    runs: dict[str, Callable[[], Any]],
    count: int,
    base: str,
    tokens: int,
    calls: int = 1,
) -> dict[str, Any]:
    seconds = rounds(runs, count, calls)
    return report(title, seconds, base, tokens * IDS_PER_TOKEN, "ns an id", 1e9)


def bench_map(folder: Path, count: int) -> dict[str, Any]:
    """Time the compressed map of a tokenizer."""
    from transformers import AutoTokenizer

    mine, auto = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    size, normaliser = mine.vocab_size, demo_normaliser()
    assert np.array_equal(build_map(mine.tokenizer, size), demo_loop(auto, normaliser, size))
    runs = {
        "demo": lambda: demo_loop(auto, normaliser, size),
        "engram": lambda: build_map(mine.tokenizer, size),
    }
    title = f"compressed map of {size:,} ids"
    return report(title, rounds(runs, max(3, count // 3)), "demo", 1, "s", 1)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=Path(os.environ.get("ENGRAM_ASSETS", ".assets")) / "tokenizers" / "deepseek-v4",
        help="folder of a tokenizer, for the compressed map",
    )
    args = parser.parse_args()
    results = bench_tokens(make_addresses(), args.rounds)
    if args.tokenizer.is_dir():
        results["map"] = bench_map(args.tokenizer, args.rounds)
    else:
        print(f"\nno compressed map: there is no tokenizer at {args.tokenizer}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
