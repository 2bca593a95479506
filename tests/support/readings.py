"""Made-up results of `gates` and `eval`, as their JSON: what pages show, without a model."""

from __future__ import annotations

import math
import random
import re
from typing import Any

TEXT = (
    "Only Alexander the Great could tame the horse Bucephalus.\n"
    "By the way, I am a fan of the Milky Way, and of Princess Diana, the Princess of Wales. "
    "The Four Great Inventions of China are the compass, gunpowder, papermaking and printing.\n"
    "Zhang Zhongjing wrote a Treatise on Cold Damage Diseases in the Eastern Han dynasty."
)
# N-grams that a memory would know, and what of them comes last.
_KNOWN = ("Alexander the Great", "the Milky Way", "Princess of Wales", "Han dynasty", "By the way")

# Tokens that would break a page that trusts them.
HOSTILE = (
    "</script>",
    "<script>throw 1</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "\"'`&amp;<b>",
    "",
    " ",
    "\t\r\n",
    "\x00\x07\x1b[31m",
    "\u202egnp.exe\u202c",
    "\u200f\u2066",
    "שלום",
    " مرحبا",
    "\ud83d",
    "\u0301",
    "👩‍👩‍👧",
    "\u2028",
    "x" * 400,
    "{{7*7}}${x}",
    "https://example.com/a.png",
)

VERDICT = "On held-out text the memory lowers the loss by 0.1146 nats a token."


def cut(text: str) -> list[str]:
    """Pieces that look like tokens: words with the space before them, marks, newlines."""
    return re.findall(r"\n| ?\w{1,7}|[^\w\n]", text)


def gates(
    texts: list[str] | None = None,
    *,
    layers: tuple[int, ...] = (1, 6),
    streams: int = 4,
    orders: tuple[int, ...] = (2, 3),
    heads: int = 8,
    stats: bool = False,
    telling: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """A reading of gates, schema engram.gates/1.

    Args:
        texts: The tokens. Default: those of `TEXT`.
        layers: Ids of the layers with a memory.
        streams: Gates of a layer.
        orders: Of n-grams.
        heads: Of each order.
        stats: Whether the load of heads is told.
        telling: N-grams that tell most, of each kind.
        seed: Of the numbers.
    """
    draw, rows = random.Random(seed), 50_021
    texts = cut(TEXT) if texts is None else texts
    tokens: list[dict[str, Any]] = []
    for position, text in enumerate(texts):
        before = "".join(texts[: position + 1])[-60:]
        known = any(before.endswith(it) for it in _KNOWN)
        loss_off = draw.gammavariate(2.0, 1.6)
        gain = draw.gauss(0.9, 0.3) if known else draw.gauss(0.03, 0.12)
        tokens.append(
            {
                "text": text,
                "id": draw.randrange(50_257),
                "loss": max(0.01, loss_off - gain) if position else None,
                "loss_off": loss_off if position else None,
                "gates": [
                    {
                        "layer_id": layer_id,
                        "stream": stream,
                        "gate": (
                            gate := 1
                            / (
                                1
                                + math.exp(-draw.gauss(1.6 if known else -1.5 + 0.5 * stream, 0.7))
                            )
                        ),
                        "write_norm": gate * draw.uniform(0.05, 0.4),
                    }
                    for layer_id in layers
                    for stream in range(streams)
                ],
                "ngrams": [
                    {
                        "order": order,
                        "text": "".join(texts[max(0, position + 1 - order) : position + 1]),
                        "rows": [
                            {
                                "layer_id": layer_id,
                                "rows": [draw.randrange(rows) for _ in range(heads)],
                            }
                            for layer_id in layers
                        ],
                    }
                    for order in orders
                ],
            }
        )
    return {
        "schema": "engram.gates/1",
        "target": "smollm2-memory",
        "text": "".join(texts),
        "layout": "demo",
        "layers": list(layers),
        "streams": streams,
        "orders": list(orders),
        "tokens": tokens,
        "collisions": _collisions(layers, orders, heads, rows, draw) if stats else None,
        "telling": _telling(texts, layers, streams, telling, draw) if telling else None,
        "notes": ["The memory reads the text as one document."],
    }


def _collisions(
    layers: tuple[int, ...], orders: tuple[int, ...], heads: int, rows: int, draw: random.Random
) -> dict[str, Any]:
    def head(order: int, number: int) -> dict[str, Any]:
        distinct = draw.randrange(40_000, 90_000)
        hit = round(rows * (1 - math.exp(-distinct / rows)))
        return {
            **{"order": order, "head": number, "rows": rows, "rows_hit": hit, "load": hit / rows},
            **{"distinct_ngrams": distinct, "collisions": distinct - hit, "kind": "exact"},
        }

    return {
        "source": "stats.json",
        "layers": [
            {"layer_id": it, "heads": [head(order, at) for order in orders for at in range(heads)]}
            for it in layers
        ],
    }


def _telling(
    texts: list[str], layers: tuple[int, ...], streams: int, count: int, draw: random.Random
) -> list[dict[str, Any]]:
    return [
        {
            "by": by,
            "order": 2 + at % 2,
            "text": "".join(texts[at : at + 2 + at % 2]),
            "count": draw.randrange(2, 90),
            "gate_mean": 0.95 - 0.02 * at,
            "layer_id": layers[at % len(layers)] if by == "gate" else None,
            "stream": at % streams if by == "gate" else None,
            "gain": draw.gauss(0.8, 0.3),
        }
        for by in ("gate", "gain")
        for at in range(count)
    ]


def evaluation(
    *, controls: tuple[str, ...] = ("random-rows",), training: bool = True
) -> dict[str, Any]:
    """An evaluation, schema engram.eval/1.

    Args:
        controls: Names of models that are compared.
        training: Whether the text of the training was measured as well.
    """
    nats = {"on": 3.3125, "off": 3.4271, "permuted": 3.4416, "base": 3.4020}
    nats |= {name: 3.3651 + 0.02 * at for at, name in enumerate(controls)}
    split = {
        "tokens": 182_344,
        "bytes": 801_230,
        "documents": 312,
        "runs": {name: _run(it) for name, it in nats.items()},
        "differences": _differences(nats),
    }
    learnt = {name: it - (0.9 if name == "on" else 0.1) for name, it in nats.items()}
    told = {
        "tokens": 201_000,
        "bytes": 880_112,
        "documents": 340,
        "runs": {name: _run(it) for name, it in learnt.items()},
        "differences": _differences(learnt),
        "memorised_nats": (nats["on"] - nats["off"]) - (learnt["on"] - learnt["off"]),
    }
    return {
        "schema": "engram.eval/1",
        "target": "smollm2-memory",
        "text": "foldoc.txt",
        "verdict": VERDICT,
        "context": 1024,
        "split": "held_out",
        **split,
        "bytes_are_exact": True,
        "resamples": 2000,
        "training": told if training else None,
        "groups": _groups(),
        "frequency_source": "the text itself",
        "positions": [
            {
                "first": first,
                "last": last,
                "tokens": 40_000 // (at + 1),
                "runs": {name: it + 2 - 0.22 * at for name, it in nats.items()},
            }
            for at, (first, last) in enumerate(
                [(2**power, 2 ** (power + 1) - 1) for power in range(10)]
            )
        ],
        "needles": {
            "count": 8,
            "context": 1024,
            "trials": 2,
            "runs": {
                name: {"nats_per_token": it - 1.2, "exact": exact}
                for (name, it), exact in zip(
                    nats.items(), (0.625, 0.5, 0.375, 0.5, 0.5), strict=False
                )
            },
            "items": [
                {
                    "depth": at / 7,
                    "run": run,
                    "nats": nats[run] - 1.2 + 0.1 * at,
                    "exact": at % 2 == 0,
                }
                for at in range(8)
                for run in ("on", "off", "base")
            ],
        },
        "layers": [
            {
                "layer_id": layer_id,
                "gate_quartiles": [0.08, 0.21, 0.44],
                "gate_mean": 0.27,
                "write_norm": 0.061 * (at + 1),
                "row_rms": 0.0243,
                "row_norm_over_start": 1.31 if at else None,
            }
            for at, layer_id in enumerate((1, 6))
        ],
        "notes": [
            "Documents longer than 1,024 tokens are cut into windows that follow each other."
        ],
    }


def _run(nats: float) -> dict[str, float]:
    bits = nats / math.log(2) * 182_344 / 801_230
    return {"nats_per_token": nats, "perplexity": math.exp(nats), "bits_per_byte": bits}


def _differences(nats: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {
            **{"a": "on", "b": other, "nats": nats["on"] - nats[other]},
            **{"low": nats["on"] - nats[other] - 0.021, "high": nats["on"] - nats[other] + 0.019},
        }
        for other in nats
        if other != "on"
    ]


def _groups() -> list[dict[str, Any]]:
    kinds = {
        "frequency": (("1", 0.02), ("2-9", 0.06), ("10-99", 0.14), ("100 or more", 0.12)),
        "ngram": (("seen", 0.31), ("unseen", -0.015)),
        "word_part": (("first of several", 0.05), ("inside a word", 0.23), ("whole word", 0.09)),
    }
    return [
        {
            **{"by": kind, "group": group, "tokens": 40_000 + 1_000 * at, "nats_on": 3.3},
            **{"nats_off": 3.3 + gain, "gain": gain, "share_of_gain": gain / 0.4},
        }
        for kind, groups in kinds.items()
        for at, (group, gain) in enumerate(groups)
    ]
