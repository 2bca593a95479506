"""Releases that several files look at."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen4ExpTextConfig

from support.qwen import TINY


@pytest.fixture(scope="session")
def qwen(tmp_path_factory):
    layers = ["linear_attention"] * 4
    config = Qwen4ExpTextConfig(**TINY, hc_count=4, layer_types=layers, ple_layer_ids=[2, 4])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    folder = tmp_path_factory.mktemp("qwen") / "tiny"
    model.save_pretrained(folder)
    return folder, model
