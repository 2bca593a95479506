"""A tiny model that is code in its folder: what `trust_remote_code` is for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from support.paths import BPE

CONFIGURATION = """
from transformers import PretrainedConfig


class PebbleConfig(PretrainedConfig):
    model_type = "pebble"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(self, vocab_size=544, hidden_size=32, num_hidden_layers=3, heads=4, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = heads
        self.num_key_value_heads = heads
        self.heads = heads
        super().__init__(**kwargs)
"""

MODELING = """
from pathlib import Path

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_pebble import PebbleConfig
from .pebble_parts import rotate

{mark}


class PebbleBlock(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.index, self.heads = index, config.heads
        width = config.hidden_size
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 48), nn.GELU(),
                                 nn.Linear(48, width))

    def forward(self, hidden, mask, positions, cache):
        batch, length, width = hidden.shape
        parts = self.qkv(self.norm(hidden)).view(batch, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, positions), rotate(key, positions)
        if cache is not None:
            key, value = cache.update(key, value, self.index)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden = hidden + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return hidden + self.mlp(hidden)


class PebblePreTrainedModel(PreTrainedModel):
    config_class = PebbleConfig
    base_model_prefix = "model"
    _supports_sdpa = True


class PebbleModel(PebblePreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            PebbleBlock(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, position_ids=None,
                past_key_values=None, inputs_embeds=None, use_cache=None):
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        length = hidden.shape[1]
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        own = torch.arange(seen, seen + length, device=hidden.device)
        mask = torch.arange(seen + length, device=hidden.device) <= own[:, None]
        mask = mask[None, None]
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, None].bool()
            mask = mask | torch.eye(seen + length, dtype=torch.bool)[seen:][None, None]
        positions = own[None] if position_ids is None else position_ids
        for layer in self.layers:
            hidden = layer(hidden, mask, positions, past_key_values)
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values
        )


class PebbleForCausalLM(PebblePreTrainedModel, GenerationMixin):
    def __init__(self, config):
        super().__init__(config)
        self.model = PebbleModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, position_ids=None,
                past_key_values=None, inputs_embeds=None, use_cache=None, return_dict=None):
        out = self.model(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache
        )
        logits = self.lm_head(out.last_hidden_state)
        return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)
"""

PARTS = """
import torch


def rotate(states, positions):
    half = states.shape[-1] // 2
    angles = positions[:, None, :, None] * torch.exp(-torch.arange(half) / half)
    one, other = states[..., :half], states[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)
"""

AUTO_MAP = {
    "AutoConfig": "configuration_pebble.PebbleConfig",
    "AutoModelForCausalLM": "modeling_pebble.PebbleForCausalLM",
}
CODE = ("configuration_pebble.py", "modeling_pebble.py", "pebble_parts.py")


def remote_base(folder: Path, trace: Path | None = None) -> Path:
    """Save a random model whose classes are code in its folder.

    Args:
        folder: The folder.
        trace: A file that the code makes when it runs.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    (folder / CODE[0]).write_text(CONFIGURATION)
    (folder / CODE[1]).write_text(MODELING.format(mark=""))
    (folder / CODE[2]).write_text(PARTS)
    config = {"model_type": "pebble", "auto_map": AUTO_MAP, "torch_dtype": "float32"}
    config |= {"architectures": ["PebbleForCausalLM"], "bos_token_id": 0, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config))
    made = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(made, trust_remote_code=True)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    if trace is not None:
        mark = f"Path({str(trace)!r}).touch()"
        (folder / CODE[1]).write_text(MODELING.format(mark=mark))
    for file in BPE.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder
