"""Times cached decode and prefill of an attached checkpoint against its base.

The SmolLM2-135M checkpoint of ENGRAM_ASSETS with the smollm2 template, float32, two threads; the
memory's weights are random. Base and attached model take turns, so that a busy machine slows both.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measured import Ratio, finish, parser_of
from transformers import AutoModelForCausalLM

import engram
from engram.config.templates import load_template
from engram.hf.compat import cache_name, cache_of
from engram.tensor_names import is_memory

PROMISED = {"decode": 0.97, "prefill": 0.97}
QUICK_ROUNDS, ROUNDS = 5, 20
PROMPT_TOKENS, DECODE_TOKENS, PREFILL_TOKENS = 64, 16, 512


def load_pair(base: Path, folder: Path) -> tuple[Any, Any]:
    """Return the base model, and the base with a random memory attached."""
    config = replace(load_template("smollm2"), tokenizer=None)
    engram.attach(base, config, folder / "attached", link=False)
    attached = engram.load(folder / "attached", dtype=torch.float32)
    for name, parameter in attached.requires_grad_(False).named_parameters():
        if is_memory(name):
            torch.nn.init.normal_(parameter, std=0.05)
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


def compare(rounds: int, base: Path) -> list[Ratio]:
    """Run everything, and return the ratios."""
    torch.manual_seed(0)
    ratios = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        plain, attached = load_pair(base, Path(folder))
        short = torch.randint(0, 49152, (1, PROMPT_TOKENS))
        long = torch.randint(0, 49152, (1, PREFILL_TOKENS))
        for name, make, ids in (("decode", decode, short), ("prefill", prefill, long)):
            runs = (make(plain, ids), make(attached, ids))
            for run in runs:
                run()
            pairs = [(runs[0](), runs[1]()) for _ in range(rounds)]
            rates = [statistics.median(rate) for rate in zip(*pairs, strict=True)]
            ratios.append(
                Ratio(
                    key=f"attached-{name}",
                    what=f"{name} of an attached 135M model, tokens a second",
                    against="its base",
                    rounds=[attached_rate / base_rate for base_rate, attached_rate in pairs],
                    at_least=PROMISED[name],
                    note=f"base {rates[0]:.1f} tokens a second, attached {rates[1]:.1f}, "
                    f"{torch.get_num_threads()} threads",
                )
            )
    return ratios


def main() -> None:
    """Parse the command line, and print the ratios."""
    parser = parser_of(__doc__)
    parser.set_defaults(rounds=ROUNDS)
    options = parser.parse_args()
    base = Path(os.environ.get("ENGRAM_ASSETS", "")) / "smollm2-135m"
    if not base.is_dir():
        parser.exit(
            4, "ENGRAM_ASSETS names no folder with smollm2-135m: `make assets` fetches it\n"
        )
    finish(compare(QUICK_ROUNDS if options.quick else options.rounds, base), options.json)


if __name__ == "__main__":
    main()
