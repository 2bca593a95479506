"""A tiny model whose memory, read at layer 1, holds the next token of a deterministic source.

Each of 64 words follows one other. The base has random weights and knows nothing of it; the memory
adds a long vector in the direction of the next token's row of the head, which no later layer hides.
So with the memory the prediction after layer 1 is the last one, the next token.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

import engram
from engram.training.controls import memories_of

WORDS, LAYERS, HIDDEN = 64, 6, 32
_LENGTH = 100.0


def next_of(word: int) -> int:
    """The word that follows another; all of them form one cycle."""
    return (5 * word + 3) % WORDS


def write_source(folder: Path, documents: int = 40) -> Path:
    """Write a text of the source, each paragraph from another word on."""
    numbers, paragraphs = random.Random(0), []
    for _ in range(documents):
        word, words = numbers.randrange(WORDS), []
        for _ in range(numbers.randrange(8, 24)):
            words.append(f"s{word}")
            word = next_of(word)
        paragraphs.append(" ".join(words))
    path = folder / "source.txt"
    path.write_text("\n\n".join(paragraphs))
    return path


def write_base(folder: Path, layers: int = LAYERS, spread: float = 0.02, sure: float = 1) -> Path:
    """Write a tiny Llama of the 64 words.

    Args:
        folder: The folder to appear.
        layers: Its layers.
        spread: Standard deviation of its weights.
        sure: Factor of the head.
    """
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS,
            hidden_size=HIDDEN,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=False,
            initializer_range=spread,
        )
    )
    base.lm_head.weight.data.mul_(sure)
    base.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"s{i}": i for i in range(WORDS)}, unk_token="s0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def memory(**changes: object) -> engram.EngramConfig:
    """A memory of the base, at layer 1; of pairs of words, with one head."""
    values = {
        "hidden_size": HIDDEN,
        "engram_vocab_size": WORDS,
        "engram_table_size": [20_000],
        "max_ngram_size": 2,
        "n_embed_per_ngram": HIDDEN,
        "n_head_per_ngram": 1,
        "layer_ids": [1],
        "pad_id": 0,
        "kernel_size": 3,
        "seed": 2,
    }
    return engram.EngramConfig(**{**values, **changes})


def write_models(folder: Path) -> Path:
    """Write a base and an attached folder, fill its memory, and return the folder of that."""
    base = write_base(folder / "base", spread=0.3, sure=4)
    engram.attach(base, memory(), folder / "attached", init="zero-table")
    model = engram.load(folder / "attached")
    _fill(model)
    model.save_pretrained(folder / "filled")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "filled" / name).write_bytes((base / name).read_bytes())
    return folder / "filled"


@torch.no_grad()
def _fill(model: torch.nn.Module) -> None:
    """Have the row of each pair of words hold the row of the head for the word after it."""
    (module,) = memories_of(model)
    module.value_proj.weight.copy_(torch.eye(HIDDEN))
    module.norm_key.zero_()  # every gate is one half
    seen: list[torch.Tensor] = []
    heads = module.multi_head_embedding
    hook = heads.register_forward_pre_hook(lambda _, inputs: seen.append(heads.row_ids(inputs[0])))
    pairs = torch.tensor([[word, next_of(word)] for word in range(WORDS)])
    model(input_ids=pairs, use_cache=False)
    hook.remove()
    rows = seen[0].reshape(-1).long()  # of the first word, then of both
    # The pad is a word, too, which one word follows.
    assert len(rows.unique()) == 2 * WORDS - 1
    following = torch.tensor([next_of(word) for word in pairs.reshape(-1).tolist()])
    heads.embedding.weight[rows] = _LENGTH * model.lm_head.weight[following]
