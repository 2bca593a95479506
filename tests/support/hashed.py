"""A text, a memory to hash it with, and its documents, for datasets of hash ids."""

from __future__ import annotations

from engram.addressing.tokenizer_files import load_tokenizer
from engram.config.engram_config import EngramConfig
from support.paths import BPE

TEXT = "".join(
    f"Paragraph {i} on Alexander the Great{' and the Milky Way' * (i % 7)}.\n\n" for i in range(150)
)
CONFIG = EngramConfig(
    layout="demo", tokenizer=str(BPE), hidden_size=8, engram_vocab_size=544, k=2,
    n_embed_per_ngram=8, n_head_per_ngram=2, max_ngram_size=4, layer_ids=[3, 1], pad_id=2,
)  # fmt: skip
# Tokens of a window.
T = 50


def documents_of(kind):
    tokenizer = load_tokenizer(str(BPE)).tokenizer
    encoded = [
        [*tokenizer.encode(text, add_special_tokens=False).ids, 1]
        for text in TEXT.removesuffix("\n\n").split("\n\n")
    ]
    texts = TEXT.removesuffix("\n\n").split("\n\n")
    return (texts if kind == "texts" else [ids[:-1] for ids in encoded]), encoded
