"""Computes the row ids of a memory in plain Python: engram_rows.py CONSTANTS_DIR GOLDEN_DIR."""

import json
import struct
import sys
from pathlib import Path
from typing import Any

DEAD = -1


def look_back(memory: dict[str, Any], text: list[tuple[int, int, int]], t: int) -> list[int]:
    """Return the ids that position t of a text of (token, hashed id, start) reads, newest first."""
    blocked = text[t][0] == DEAD
    slots = [memory["fill"] if blocked else text[t][1]]
    while len(slots) < memory["max_ngram_size"]:
        if not blocked:
            starts, t = text[t][2], t - 1
            while memory["rule"]["skips_dead_tokens"] and t >= 0 and text[t][0] == DEAD:
                t -= 1
            blocked = starts or t < 0 or text[t][0] in (DEAD, memory["end_id"])
        slots.append(memory["fill"] if blocked else text[t][1])
    return slots


def rows_of(layer: dict[str, Any], slots: list[int]) -> list[int]:
    """Return the rows of a layer's table that the slots of a position lead to."""
    products = [slot * int(m) for slot, m in zip(slots, layer["multipliers"], strict=True)]
    mix, rows = products[0], []
    for product, primes in zip(products[1:], layer["primes"], strict=True):
        mix ^= product
        rows += [layer["offsets"][len(rows) + i] + mix % prime for i, prime in enumerate(primes)]
    return rows


def main(constants: str, golden: str) -> None:
    """Compare all cases; the exit code is 1 if one differs."""
    memory = json.loads(Path(constants, "constants.json").read_text())
    token_map = range(memory["raw_vocab_size"])
    if memory["map_sha256"] is not None:
        raw = Path(constants, "engram_token_map.bin").read_bytes()
        token_map = struct.unpack(f"<{len(raw) // 4}i", raw)
    compared = 0
    for case in json.loads(Path(golden, "golden.json").read_text())["cases"]:
        text: list[tuple[int, int, int]] = []
        for step in case["steps"]:
            del text[step["at"] :]
            columns = ("token_ids", "starts", "compressed_ids", "rows")
            for token, start, *answer in zip(*map(step.get, columns), strict=True):
                text.append((token, DEAD if token == DEAD else token_map[token], start))
                slots = look_back(memory, text, len(text) - 1)
                found = [rows_of(layer, slots) for layer in memory["layers"]]
                if [text[-1][1], found] != answer:
                    sys.exit(f"{case['name']}: position {len(text) - 1} reads other rows")
                compared += sum(map(len, found))
    print(f"{memory['layout']}: {compared} row ids are equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
