"""What `engram hash --json` says of a text that nobody has to hash."""

from __future__ import annotations

import json

from engram.growth import Growth, GrowthPoint, growth_lengths


def write_statistics(
    path, *, tokens=1_000_000, vocab_size=50_257, compressed=32_962, orders=(2, 3)
):
    """Write the keys that are read again; n-grams of order n grow as tokens^(0.5 + n / 10)."""

    def distinct(order, length):
        return round(length ** (0.5 + order / 10))

    lengths = [length for length, _ in zip(growth_lengths(), range(60), strict=False)]
    lengths = [*(length for length in lengths if length < tokens), tokens]
    curves = [
        Growth(order, tuple(GrowthPoint(n, distinct(order, n), "exact") for n in lengths))
        for order in orders
    ]
    heads = [
        {"order": n, "distinct_ngrams": distinct(n, tokens), "kind": "exact", "relative_error": 0.0}
        for n in orders
    ]
    values = {
        "schema": "engram.hash/1",
        "tokens": tokens,
        "tokenizer": {"vocab_size": vocab_size},
        "compressed_vocab_size": compressed,
        "layers": [{"heads": heads}],
        "growth": [curve.to_dict() for curve in curves],
    }
    path.write_text(json.dumps(values))
    return path
