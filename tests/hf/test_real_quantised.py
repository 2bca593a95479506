"""A memory beside the quantised weights of a real checkpoint, on the CPU (`make real`)."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

import engram
from engram.checkpoints.verify.verify import verify
from engram.config.templates import load_template
from support import tiny

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore:.*bitsandbytes")]

TEXT = "Only Alexander the Great could tame the horse Bucephalus. By the way, the Milky Way is"
BITS = {
    "4 bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "8 bit": {"load_in_8bit": True},
}


@pytest.fixture(scope="module", params=BITS)
def folders(request, real_assets, tmp_path_factory):
    """SmolLM2 as bitsandbytes quantised and saved it, and the same with a memory."""
    plain = real_assets / "smollm2-135m"
    base = tmp_path_factory.mktemp("quantised") / "base"
    options = BitsAndBytesConfig(**BITS[request.param])
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=options)
    model.save_pretrained(base)
    for file in plain.glob("*token*"):
        shutil.copyfile(file, base / file.name)
    config = replace(load_template("smollm2"), tokenizer=None)
    engram.attach(base, config, base.parent / "attached")
    return base, base.parent / "attached"


def test_logits_are_those_of_the_quantised_base(folders):
    base, attached = folders
    ids = AutoTokenizer.from_pretrained(base)(TEXT, return_tensors="pt").input_ids
    plain = AutoModelForCausalLM.from_pretrained(base)
    model = engram.load(attached)
    assert torch.equal(plain(ids).logits, model(ids).logits)
    memory = [p for name, p in model.named_parameters() if ".engram." in name]
    assert {parameter.dtype for parameter in memory} == {torch.float32}
    assert any(p.dtype in (torch.uint8, torch.int8) for p in model.parameters())
    tiny.randomise(model)
    assert (plain(ids).logits - model(ids).logits).abs().max() > 1


def test_it_verifies(folders):
    checks = {check.name: check for check in verify(folders[1])}
    assert [check for check in checks.values() if check.ok is False] == []
    assert checks["memory responds"].ok
    assert checks["cached = full"].ok
