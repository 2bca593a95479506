"""Generates text with an attached checkpoint: python examples/generate.py FOLDER PROMPT."""

from __future__ import annotations

import sys

from transformers import AutoTokenizer

import engram


def main(folder: str, prompt: str) -> None:
    """Print a greedy continuation of the prompt."""
    model = engram.load(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt")
    outputs = model.generate(**inputs, max_new_tokens=24, do_sample=False)
    print(tokenizer.decode(outputs[0], skip_special_tokens=True))


if __name__ == "__main__":
    main(*sys.argv[1:3])
