"""The form of constants that an artefact stores, checked before anything is computed with them."""

from typing import Any

from engram.storage.json_files import COUNT, TEXT, Kind, Maybe, OrNull

_POSITIVE = Kind("a whole number from 1", lambda value: value > 0, COUNT)
_DIGITS = Kind(
    "a whole number below 2^63 as text",
    lambda text: text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**63,
    TEXT,
)


def _some(shape: Any) -> Kind:
    return Kind("a list with something in it", bool, [shape])


_LAYER = Kind(
    "a layer with one multiplier more than orders, and stored_rows for all of its primes",
    lambda layer: (
        len(layer["multipliers"]) == len(layer["primes"]) + 1
        and layer["stored_rows"] >= sum(map(sum, layer["primes"]))
    ),
    {
        "layer_id": COUNT,
        "primes": Kind(
            "as many primes in each order",
            lambda rows: len(set(map(len, rows))) == 1,
            _some(_some(_POSITIVE)),
        ),
        "multipliers": _some(_DIGITS),
        "stored_rows": COUNT,
    },
)
# As `Addresses.to_dict` writes it.
ADDRESSES_SHAPE = {
    "layout": TEXT,
    "map_sha256": OrNull(TEXT),
    "raw_vocab_size": _POSITIVE,
    "vocab_size": _POSITIVE,
    "fill": COUNT,
    "end_id": Maybe(COUNT),
    "layers": Kind(
        "layers of different ids, with as many orders and heads each",
        lambda layers: (
            len({layer["layer_id"] for layer in layers}) == len(layers)
            and len({(len(rows), len(rows[0])) for rows in (it["primes"] for it in layers)}) == 1
        ),
        _some(_LAYER),
    ),
}
