"""Times cached decode and prefill of an attached checkpoint against its base.

The SmolLM2-135M checkpoint of ENGRAM_ASSETS with the smollm2 template, float32, two threads; the
memory's weights are random. Base and attached model take turns, so that a busy machine slows both;
the ratio is the median over turns, the spread its quartiles. Targets: 0.93 of the base's tokens a
second in decode, 0.90 in prefill.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import engram
from engram.checkpoints.verify.behaviour import randomise
from engram.config.templates import load_template
from engram.hf.compat import cache_name, cache_of

TARGETS = {"decode": 0.93, "prefill": 0.90}
PROMPT_TOKENS, DECODE_TOKENS, PREFILL_TOKENS = 64, 16, 512


def load_pair(base: Path, folder: Path) -> tuple[Any, Any]:
    """Return the base model, and the base with a random memory attached."""
    config = replace(load_template("smollm2"), tokenizer=None)
    engram.attach(base, config, folder / "attached", link=False)
    attached = engram.load(folder / "attached", dtype=torch.float32)
    randomise(attached.requires_grad_(False), torch.Generator().manual_seed(0))
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return plain.requires_grad_(False), attached


def decode(model: Any, ids: torch.Tensor) -> Callable[[], float]:
    """Return a function that decodes some tokens and gives its tokens a second."""

    def run() -> float:
        past, name = cache_of(model(input_ids=ids, use_cache=True)), cache_name(model.forward)
        start = time.perf_counter()
        token = ids[:, -1:]
        for _ in range(DECODE_TOKENS):
            out = model(input_ids=token, use_cache=True, **{name: past})
            token = out.logits[:, -1:].argmax(-1)
        return DECODE_TOKENS / (time.perf_counter() - start)

    return run


def prefill(model: Any, ids: torch.Tensor) -> Callable[[], float]:
    """Return a function that reads a prompt and gives its tokens a second."""

    def run() -> float:
        start = time.perf_counter()
        model(input_ids=ids, use_cache=True, logits_to_keep=1)
        return ids.shape[1] / (time.perf_counter() - start)

    return run


def compare(turns: int, base: Path) -> dict[str, Any]:
    """Run everything and return tokens a second and ratios."""
    torch.manual_seed(0)
    results: dict[str, Any] = {"schema": "engram.bench-decode/1", "turns": turns}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        plain, attached = load_pair(base, Path(folder))
        short = torch.randint(0, 49152, (1, PROMPT_TOKENS))
        long = torch.randint(0, 49152, (1, PREFILL_TOKENS))
        for name, make, ids in (("decode", decode, short), ("prefill", prefill, long)):
            runs = (make(plain, ids), make(attached, ids))
            for run in runs:
                run()
            pairs = [tuple(run() for run in runs) for _ in range(turns)]
            ratios = sorted(attached_rate / base_rate for base_rate, attached_rate in pairs)
            low, middle, high = statistics.quantiles(ratios, n=4)
            results[name] = {
                "ratio": middle,
                "quartiles": [low, high],
                "target": TARGETS[name],
                "base_tokens_per_second": statistics.median(pair[0] for pair in pairs),
                "attached_tokens_per_second": statistics.median(pair[1] for pair in pairs),
            }
    return results


def main() -> None:
    """Parse the command line and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    base = Path(os.environ.get("ENGRAM_ASSETS", "")) / "smollm2-135m"
    if not base.is_dir():
        parser.exit(
            4, "ENGRAM_ASSETS names no folder with smollm2-135m: `make assets` fetches it\n"
        )
    results = compare(arguments.turns, base)
    if arguments.json:
        print(json.dumps(results))
        return
    print(f"{torch.get_num_threads()} threads, {arguments.turns} interleaved turns")
    print("what      ratio  (quartiles)     target   base tok/s  attached tok/s")
    for name in TARGETS:
        row = results[name]
        low, high = row["quartiles"]
        print(
            f"{name:8}  {row['ratio']:.3f}  ({low:.3f}-{high:.3f})   {row['target']:.2f}"
            f"   {row['base_tokens_per_second']:10.1f}  {row['attached_tokens_per_second']:14.1f}"
        )


if __name__ == "__main__":
    main()
