"""Headers of GGUF with flipped bits and absurd numbers: an answer, or an error that names it."""

from __future__ import annotations

import contextlib
import random

import pytest

import engram
from engram.errors import EngramError
from engram.storage.gguf_headers import read_gguf
from support.gguf_memories import write_filled, write_memory
from support.paths import BPE

TEXT = "the old mill"


def ask(path):
    """Ask all that reads such files."""
    for question in (
        lambda: engram.report(path).to_dict(),
        lambda: engram.verify(path).to_dict(),
        lambda: engram.look_up(path, TEXT, tokenizer=BPE),
    ):
        with contextlib.suppress(EngramError):
            question()


@pytest.mark.parametrize("name", ["gguf_ds4", "gguf_tarruda", "gguf_jig", "gguf_qwen4exp"])
def test_flipped_bits_of_a_header(name, tmp_path):
    path = tmp_path / "model.gguf"
    write_filled(path, name)
    whole, header = path.read_bytes(), read_gguf(path).header_bytes
    # Tokens and the token map are most of it; keys and tensors are at its ends.
    numbers = random.Random(name)
    places = [numbers.randrange(8, min(1500, header)) for _ in range(60)]
    places += [numbers.randrange(max(8, header - 1500), header) for _ in range(60)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << numbers.randrange(8)
        path.write_bytes(damaged)
        ask(path)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("gguf_kmbandy", {"orders": 2**32 - 1}),
        ("gguf_kmbandy", {"heads": 2**32 - 1, "size_base": 2**32 - 1}),
        ("gguf_kmbandy", {"compressed_vocab_size": 0}),
        ("gguf_llama", {"orders": 0, "heads": 0}),
        ("gguf_llama", {"primes": [0] * 48}),
        ("gguf_llama", {"primes": [2**64 - 1] * 48, "offsets": [2**64 - 1] * 48}),
        ("gguf_llama", {"multipliers": [0] * 8}),
        ("gguf_llama", {"token_map": [2**31 - 1] * 1000, "pad_id": 2**32 - 1}),
        ("gguf_ds4", {"token_map": [], "compressed_vocab_size": 2**32 - 1}),
        ("gguf_mx", {"pad_id": 2**32 - 1}),
        ("gguf_jig", {"token_map": [-1] * 1000, "multipliers": [-1] * 8}),
        ("gguf_qwen4exp", {"eos_token_id": 2**32 - 1, "primes": [1] * 16}),
    ],
)
def test_absurd_numbers(name, changed, tmp_path):
    ask(write_memory(tmp_path / "model.gguf", name, changed=changed))
