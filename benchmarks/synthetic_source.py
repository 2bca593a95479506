"""A source that only a memory can learn in a minute, and a tiny model that learns from it.

Each of 64 symbols follows the two before it with a probability of its own (Dirichlet 0.05 for each
of the 4,096 pairs): the last one alone tells next to nothing. The 2-grams of a memory keep rows for
pairs; a small backbone cannot. The model is a Llama of 2 layers, 32 wide (its MLP too), from random
weights, with a memory at layer 1 (orders 2 and 3, 4 heads each, 8 values a row, 20,000 rows an
order); 3-grams are of no use here.

Losses are in nats a token, of the tokens of a window from the second on; the floor is the entropy
rate of the source, which nothing can beat but by luck. The second token, of which the model knows
one predecessor, adds 0.036 to every gap.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import engram
from engram.tensor_names import is_memory
from engram.training import MemoryOptimizer

SYMBOLS, CONCENTRATION = 64, 0.05
BATCH, LENGTH, STEPS = 16, 64, 300
HELD_OUT = 1024


class Source:
    """The source.

    Args:
        seed: Decides its probabilities.

    Attributes:
        floor: Its entropy rate in nats a symbol.
    """

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        shape = np.full(SYMBOLS, CONCENTRATION)
        probabilities = generator.dirichlet(shape, (SYMBOLS, SYMBOLS))
        self._up_to = probabilities.cumsum(axis=2)
        pairs = np.full((SYMBOLS, SYMBOLS), SYMBOLS**-2)
        for _ in range(200):  # the share of each pair, once it no longer changes
            pairs = np.einsum("ab,abc->bc", pairs, probabilities)
        logs = np.log(np.maximum(probabilities, 1e-300))
        self.floor = -float((pairs[:, :, None] * probabilities * logs).sum())
        self._pairs_up_to = pairs.cumsum()

    def draw(self, rows: int, seed: int) -> Tensor:
        """Draw windows of `LENGTH` symbols ``[rows, LENGTH]``."""
        chances = np.random.default_rng(seed).random((LENGTH, rows))
        ids = np.empty((rows, LENGTH), np.int64)
        pair = np.searchsorted(self._pairs_up_to / self._pairs_up_to[-1], chances[0])
        ids[:, 0], ids[:, 1] = np.divmod(np.minimum(pair, SYMBOLS**2 - 1), SYMBOLS)
        for place in range(2, LENGTH):
            up_to: NDArray[Any] = self._up_to[ids[:, place - 2], ids[:, place - 1]]
            ids[:, place] = (up_to < chances[place][:, None] * up_to[:, -1:]).sum(axis=1)
        return torch.from_numpy(ids)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the model is trained.

    Attributes:
        init: Start of the memory; None for a model without one.
        table_optimizer: Rule of the table; None for a table that stays as it is.
        table_lr: Its learning rate.
        lr: Learning rate of everything else.
        steps: Steps of `BATCH` windows.
        decay: Share of the steps, at the end, over which both rates fall to zero in a line.
    """

    init: str | None = "zero-table"
    table_optimizer: str | None = "rowwise-adagrad"
    table_lr: float = 0.1
    lr: float = 3e-3
    steps: int = STEPS
    decay: float = 0.0


# What served best for ten times the steps: moments of every value, and rates that fall to zero. It
# leaves a gap of 0.34; row-wise RMSprop with such rates 0.36, row-wise Adagrad 0.39 with or
# without them. Pairs collide in the heads: a table of this size that was fitted to the true
# probabilities left about 0.2, and the second token of a window adds its 0.036.
LONG = Training(
    table_optimizer="sparse-adam", table_lr=1.5e-2, lr=6e-3, steps=10 * STEPS, decay=1.0
)


def gap(source: Source, training: Training, seed: int) -> float:
    """Train a model, and return its loss on held-out windows above the floor.

    Args:
        source: The source.
        training: How to train.
        seed: Seed of the model, its memory and the windows.
    """
    with new_model(training.init, seed) as model:
        train(model, source, training, seed)
        return loss(model, source.draw(HELD_OUT, 2**32 - 1)) - source.floor


@contextmanager
def new_model(init: str | None, seed: int) -> Iterator[Any]:
    """Make a model with random weights, and a memory that starts as `init` says."""
    torch.manual_seed(seed)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=SYMBOLS,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=False,
        )
    )
    if init is None:
        yield base
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base.save_pretrained(folder / "base")
        _save_tokenizer(folder / "base")
        config = engram.EngramConfig(
            hidden_size=32,
            engram_vocab_size=SYMBOLS,
            engram_table_size=[20_000, 20_000],
            max_ngram_size=3,
            n_embed_per_ngram=32,
            n_head_per_ngram=4,
            layer_ids=[1],
            pad_id=0,
            seed=seed,
        )
        engram.attach(folder / "base", config, folder / "attached", init=init)
        yield engram.load(folder / "attached")


def train(model: Any, source: Source, training: Training, seed: int) -> None:
    """Train a model on windows that are drawn as they are needed."""
    frozen = training.table_optimizer is None
    for name, weight in model.named_parameters():
        weight.requires_grad_(not (frozen and is_memory(name) and "embedding" in name))
    optimizer = MemoryOptimizer(
        model,
        lr=training.lr,
        table_lr=training.table_lr,
        table_optimizer=training.table_optimizer or "rowwise-adagrad",
    )
    last = training.steps * training.decay
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (training.steps - step) / last) if last else 1.0
    )
    model.train()
    for step in range(training.steps):
        ids = source.draw(BATCH, seed * 2**20 + step)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


@torch.no_grad()
def loss(model: Any, ids: Tensor) -> float:
    """Return the loss of windows in nats a token."""
    return float(model.eval()(input_ids=ids, labels=ids, use_cache=False).loss)


def _save_tokenizer(folder: Path) -> None:
    """Save a tokenizer whose tokens are the symbols."""
    words = {f"s{number}": number for number in range(SYMBOLS)}
    Tokenizer(models.WordLevel(words, unk_token="s0")).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
