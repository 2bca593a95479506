"""Computes the row ids of a memory in plain Python, and compares golden.json with them.

engram constants TARGET -o constants
engram golden TARGET -o golden
python engram_rows.py constants golden
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

DEAD = -1


def look_back(memory: dict[str, Any], text: list[tuple[int, int, int]], t: int) -> list[int]:
    """Return what position t of a text of (token, compressed id, start) reads, newest first."""
    skips_dead = memory["rule"]["skips_dead_tokens"]
    blocked = text[t][0] == DEAD
    slots = [memory["fill"] if blocked else text[t][1]]
    while len(slots) < memory["max_ngram_size"]:
        blocked = blocked or bool(text[t][2])
        t -= 1
        while skips_dead and t >= 0 and text[t][0] == DEAD:
            t -= 1
        blocked = blocked or t < 0 or text[t][0] in (DEAD, memory["end_id"])
        slots.append(memory["fill"] if blocked else text[t][1])
    return slots


def rows_of(layer: dict[str, Any], slots: list[int]) -> list[int]:
    """Return the rows of a layer's table that the slots of a position lead to."""
    mix, rows = slots[0] * int(layer["multipliers"][0]), []
    for slot, factor, primes in zip(
        slots[1:], layer["multipliers"][1:], layer["primes"], strict=True
    ):
        mix ^= slot * int(factor)
        rows += [layer["offsets"][len(rows) + i] + mix % prime for i, prime in enumerate(primes)]
    return rows


def main(constants: str, golden: str) -> None:
    """Compare all cases; the exit code is 1 if one differs."""
    memory = json.loads(Path(constants, "constants.json").read_text())
    vectors = json.loads(Path(golden, "golden.json").read_text())
    token_map = None
    if memory["map_sha256"] is not None:
        raw = Path(constants, "engram_token_map.bin").read_bytes()
        token_map = struct.unpack(f"<{len(raw) // 4}i", raw)
    compared = 0
    for case in vectors["cases"]:
        text: list[tuple[int, int, int]] = []
        for step in case["steps"]:
            del text[step["at"] :]
            for token, start, *expected in zip(
                step["token_ids"], step["starts"], step["compressed_ids"], step["rows"], strict=True
            ):
                hashed = token if token_map is None or token == DEAD else token_map[token]
                text.append((token, hashed, start))
                slots = look_back(memory, text, len(text) - 1)
                found = [rows_of(layer, slots) for layer in memory["layers"]]
                if [hashed, found] != expected:
                    sys.exit(f"{case['name']}: position {len(text) - 1} reads other rows")
                compared += sum(map(len, found))
    print(f"{memory['layout']}: {compared} row ids are equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
