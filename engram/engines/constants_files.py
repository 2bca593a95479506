"""Constants as bytes and text of the formats that engines read."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Sequence

import numpy as np

from engram.addressing.addresses import Addresses, TokenMap

_DSE1_VERSION = 1
_WORDS_A_LINE = 12


def dse1(addresses: Addresses, token_map: TokenMap) -> bytes:
    """Return a DSE1 file: map and constants, little-endian, as llama.cpp's V4.1 port reads it.

    It holds neither layer ids nor the pad nor the compressed size.

    Args:
        addresses: The constants.
        token_map: Compressed id per token id ``[V]``.
    """
    header = struct.pack("<4sII", b"DSE1", _DSE1_VERSION, len(token_map))
    counts = (len(addresses.layers), addresses.max_ngram_size, addresses.n_heads)
    parts = [header, token_map.astype("<i4").tobytes(), struct.pack("<3I", *counts)]
    for layer in addresses.layers:
        numbers = (layer.stored_rows, *layer.multipliers, *layer.offsets, *layer.heads)
        parts.append(struct.pack(f"<{len(numbers)}q", *numbers))
    return b"".join(parts)


def npy(token_map: TokenMap) -> bytes:
    """Return a token map as an .npy file of little-endian int32."""
    out = io.BytesIO()
    np.save(out, token_map.astype("<i4"), allow_pickle=False)
    return out.getvalue()


def token_list(token_map: TokenMap) -> str:
    """Return a token map as a JSON list."""
    return f"[{', '.join(map(str, token_map.tolist()))}]\n"


def memh(token_map: TokenMap) -> str:
    """Return a token map as a memory image for ``$readmemh``: 32-bit words, one a line."""
    return "".join(f"{number:08x}\n" for number in token_map.tolist())


def c_header(addresses: Addresses) -> str:
    """Return the constants as a C99 header: macros for sizes, static const arrays for the rest."""
    token_map, end_id = addresses.token_map, addresses.end_id
    macros = {
        "LAYERS": len(addresses.layers),
        "MAX_NGRAM": addresses.max_ngram_size,
        "HEADS": addresses.n_heads,
        "COLUMNS": addresses.n_columns,
        "RAW_VOCAB": addresses.raw_vocab_size,
        "HASHED_VOCAB": addresses.vocab_size,
        "FILL": addresses.fill,
        "END_ID": -1 if end_id is None else end_id,
        "SKIPS_DEAD": int(addresses.layout.masked == "absent"),
        "HAS_TOKEN_MAP": int(token_map is not None),
    }
    layers = addresses.layers
    by_layer = {
        "uint64_t engram_multipliers[ENGRAM_LAYERS][ENGRAM_MAX_NGRAM]": [
            layer.multipliers for layer in layers
        ],
        "uint64_t engram_primes[ENGRAM_LAYERS][ENGRAM_COLUMNS]": [layer.heads for layer in layers],
        "uint64_t engram_offsets[ENGRAM_LAYERS][ENGRAM_COLUMNS]": [
            layer.offsets for layer in layers
        ],
    }
    lines = [
        f"/* Constants of an Engram memory, layout {addresses.layout.name}.",
        f"   fingerprint {addresses.fingerprint}",
        f"   sha256 of the token map as little-endian int32: {addresses.map_sha256 or 'no map'} */",
        "#ifndef ENGRAM_CONSTANTS_H",
        "#define ENGRAM_CONSTANTS_H",
        "#include <stdint.h>",
        f'#define ENGRAM_LAYOUT "{addresses.layout.name}"',
        f'#define ENGRAM_FINGERPRINT "{addresses.fingerprint}"',
        *(f"#define ENGRAM_{name} {number}" for name, number in macros.items()),
        *_array("int32_t engram_layer_ids[ENGRAM_LAYERS]", addresses.layer_ids),
        *_array(
            "uint64_t engram_rows[ENGRAM_LAYERS]", _wide(layer.stored_rows for layer in layers)
        ),
    ]
    for declared, rows in by_layer.items():
        lines.append(f"static const {declared} = {{")
        lines += [f"    {{{', '.join(_wide(row))}}}," for row in rows]
        lines.append("};")
    if token_map is not None:
        lines += _array("int32_t engram_token_map[ENGRAM_RAW_VOCAB]", token_map.tolist())
    return "\n".join([*lines, "#endif", ""])


def _wide(numbers: Iterable[int]) -> list[str]:
    return [f"UINT64_C({number})" for number in numbers]


def _array(declared: str, items: Sequence[object]) -> list[str]:
    words = [str(item) for item in items]
    lines = [
        f"    {', '.join(words[i : i + _WORDS_A_LINE])},"
        for i in range(0, len(words), _WORDS_A_LINE)
    ]
    return [f"static const {declared} = {{", *lines, "};"]
