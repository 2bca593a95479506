"""The code of the README that this project grew from runs as it is written there."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

from support import tiny
from support.paths import BPE, GOLDEN

README = GOLDEN / "seeds" / "engram_torch_unofficial-README.md"
SETUP, DATA_FLOW, BEST_K = re.findall(r"```py\n(.*?)```", README.read_text(), flags=re.S)

# What block 2 leaves out, by the fragment that stands for it.
COMPLETIONS = {
    "class Block(nn.Module):": "from torch import nn\n\n\nclass Block(nn.Module):",
    "        # ...\n\n        self.engram = None": (
        "        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)\n"
        "        self.attn, self.mlp = nn.Linear(width, width), nn.Linear(width, width)\n"
        "        self.engram = None"
    ),
    "class GPT(nn.Module):\n": (
        "class GPT(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.wte = nn.Embedding(len(hf_tokenizer), width)\n"
        "        self.blocks = nn.ModuleList(Block(cfg, layer_id) for layer_id in range(6))\n\n"
    ),
    "        # ...\n\nmodel = GPT()": "        self.last = x\n\nmodel = GPT()",
}


@pytest.fixture
def gpt2_folder(tmp_path, monkeypatch):
    """A folder called gpt2, where from_pretrained("gpt2") finds it before the hub."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(BPE / "tokenizer.json"))
    assert tokenizer.pad_token is None  # as GPT-2's
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(1)
    tokenizer.save_pretrained(tmp_path / "gpt2")
    config = GPT2Config(vocab_size=tiny.VOCAB, n_embd=32, n_layer=12, n_head=4, n_positions=64)
    GPT2Model(config).save_pretrained(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "gpt2"


def test_block_1_builds_modules_for_two_layers(gpt2_folder):
    names: dict = {}
    exec(SETUP, names)
    assert names["engram_tokenizer"].vocab_distributions.keys() == {1, 5}
    assert names["engram_1"].multi_head_embedding.embedding.weight.shape[1] == 64
    rows = [sum(map(sum, names[key])) for key in ("vocab_sizes_1", "vocab_sizes_6")]
    assert rows[0] < rows[1]
    assert rows[0] > tiny.VOCAB * 5 * 2


def test_block_2_runs_two_layers_on_one_hashing(gpt2_folder):
    code = DATA_FLOW
    for fragment, completed in COMPLETIONS.items():
        assert code.count(fragment) == 1, fragment
        code = code.replace(fragment, completed)
    for call in (
        "self.engram(hs, hi) + hs",
        "EngramTokenizer(engram_cfg, tok)",
        'en_tok.compress_and_hash(ids, return_tensors="pt")',
        "model.forward(ids, hash_ids)",
    ):
        assert call in code
    names: dict = {}
    exec(SETUP, names)
    from types import SimpleNamespace

    from engram import EngramConfig

    values = {**names["config"].to_dict(), "layer_ids": [1, 5], "hidden_size": 32}
    engram_cfg = EngramConfig.from_dict(values)
    tokenizer = names["EngramTokenizer"](engram_cfg, names["hf_tokenizer"])
    memory = SimpleNamespace(layer_ids=[1, 5], cfg=engram_cfg, tokenizer=tokenizer)
    names |= {"cfg": SimpleNamespace(engram=memory), "engram_cfg": engram_cfg, "width": 32}
    torch.manual_seed(0)
    exec(code, names)
    hash_ids, model = names["hash_ids"], names["model"]
    assert hash_ids.shape == (1, names["ids"].shape[1], 2, 16)
    assert not torch.equal(hash_ids[:, :, 0], hash_ids[:, :, 1])
    # Both layers read their own ids: with the first layer's for both the result is another.
    before = model.last.clone()
    model.forward(names["ids"], hash_ids[:, :, :1].expand_as(hash_ids))
    assert (before - model.last).abs().max() > 1e-4


def test_block_3_estimates_k(gpt2_folder, capsys):
    names: dict = {}
    exec(BEST_K, names)
    assert capsys.readouterr().out == "Optimal k: 1\n"
    assert names["config"].engram_table_size == [tiny.VOCAB, tiny.VOCAB]
    assert names["engram_tokenizer"].vocab_distributions.keys() == {1, 6}


@pytest.mark.real
def test_block_3_with_the_real_tokenizer_and_size(tmp_path, monkeypatch, capsys, real_assets):
    shutil.copytree(real_assets / "tokenizers" / "gpt2", tmp_path / "gpt2")
    GPT2Model(GPT2Config()).save_pretrained(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(SETUP, names)
    exec(BEST_K, names)
    assert capsys.readouterr().out == "Optimal k: 2\n"
    assert len(names["hf_tokenizer"]) == 50257
    assert names["engram_tokenizer"].addresses.vocab_size == 32962
