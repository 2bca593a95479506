"""Tokenizers as converters write them into GGUF: keys made from a tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.gguf_files import Array

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_KEY = "tokenizer.ggml."


def keys_of(folder: Path, pre: str, unused: int = 0) -> dict[str, Any]:
    """Keys of a byte-level tokenizer, as llama.cpp's converter makes them.

    Args:
        folder: Folder with its tokenizer.json.
        pre: Name of the rule that cuts texts.
        unused: Ids after the last one, which the model has and the tokenizer has not.
    """
    stored = json.loads((folder / "tokenizer.json").read_text())
    tokens = {token_id: token for token, token_id in stored["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, NORMAL)
    for token in stored["added_tokens"]:
        content, is_special = token["content"], token["special"]
        tokens[token["id"]] = content if is_special else content.replace("\u2581", " ")
        types[token["id"]] = CONTROL if is_special else USER_DEFINED
    count = max(tokens) + 1 + unused
    merges = [it if isinstance(it, str) else " ".join(it) for it in stored["model"]["merges"]]
    return keys(
        "gpt2",
        [tokens.get(at, f"[PAD{at}]") for at in range(count)],
        [types.get(at, UNUSED) for at in range(count)],
        pre=("string", pre),
        merges=Array("string", merges),
    )


def keys(model: str, tokens: list[str], types: list[int], **more: Any) -> dict[str, Any]:
    """Keys of a tokenizer of some kind."""
    return {
        f"{_KEY}model": ("string", model),
        f"{_KEY}tokens": Array("string", tokens),
        f"{_KEY}token_type": Array("int32", types),
        **{_KEY + name: value for name, value in more.items()},
    }
