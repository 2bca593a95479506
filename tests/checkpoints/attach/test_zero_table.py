"""Memories that start with a table of zeros: an identity in every layout and dtype, that learns."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import engram
from engram.checkpoints.attach.proof import max_logit_difference
from engram.checkpoints.verify.verify import verify
from engram.nn import EngramModule
from engram.tensor_names import TABLE
from support import tiny
from support.cli import run
from support.layouts import LAYOUTS, layout_config

IDS = torch.randint(3, tiny.VOCAB, (2, 24), generator=torch.Generator().manual_seed(0))


def value_of(module):
    """The value projection of a layer's memory, and its bias."""
    if module.layout.name == "deepseek_v41":
        return module.wkv.weight[-tiny.HIDDEN :], None
    return module.value_proj.weight, module.value_proj.bias


def assert_orthogonal(weight, tolerance):
    """Assert that the shorter of rows and columns are orthonormal."""
    small = weight.double() if weight.shape[0] <= weight.shape[1] else weight.double().t()
    eye = torch.eye(len(small), dtype=torch.float64)
    torch.testing.assert_close(small @ small.t(), eye, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_logits_are_the_bases_and_what_reads_the_table_is_orthogonal(base, tmp_path, layout, dtype):
    folder = tmp_path / "attached"
    config = layout_config(layout, table_dtype=dtype)
    tiny.attached_model(base, folder, config, init="zero-table")
    assert max_logit_difference(base, folder) == 0.0
    every_way = (layout, dtype) in (("deepseek_v41", "float32"), ("qwen_ple", "int8"))
    checks = list(verify(folder, headers_only=not every_way))
    assert [check for check in checks if check.ok is False] == []
    assert any(check.name == "memory responds" for check in checks) == every_way
    model = engram.load(folder)
    tolerance = {"float32": 1e-5}.get(dtype, 0.05)
    for layer_id in config.layer_ids:
        memory = model.get_decoder().layers[layer_id].engram
        ids = torch.arange(memory.multi_head_embedding.embedding.num_embeddings)
        rows = memory.multi_head_embedding.rows(ids)
        assert not rows.any()
        assert not rows.signbit().any()
        weight, bias = value_of(memory)
        assert_orthogonal(weight, tolerance)
        assert bias is None or not bias.any()
        keys = memory.wkv if layout == "deepseek_v41" else memory.key_proj
        assert keys.weight.std() > 0.05
    weights = {k: v for f in folder.glob("engram-*.safetensors") for k, v in load_file(f).items()}
    tables = [value for name, value in weights.items() if name.endswith(TABLE)]
    assert len(tables) == len(config.layer_ids)
    assert not any(table.view(torch.uint8).any() for table in tables)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_get_gradients_from_the_first_step_on(base, tmp_path, layout):
    model = engram.load(
        tiny.attached_model(
            base, tmp_path / "attached", layout_config(layout), init="zero-table", dtype="float32"
        )
    )
    model(IDS, labels=IDS).loss.backward()
    for layer_id in layout_config(layout).layer_ids:
        table = model.get_decoder().layers[layer_id].engram.multi_head_embedding.embedding.weight
        norms = table.grad.norm(dim=1)
        read = norms[norms > 0]
        assert len(read) > 50
        assert torch.isfinite(norms).all()
        weight, _ = value_of(model.get_decoder().layers[layer_id].engram)
        assert weight.abs().max() > 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_module_itself_starts_so(layout, dtype):
    config = layout_config(layout)
    primes = [[101, 103]] * 3
    module = EngramModule(config, primes, init="zero-table", dtype=dtype)
    hidden = torch.randn(2, 9, tiny.HIDDEN, generator=torch.Generator().manual_seed(1)).to(dtype)
    ids = torch.randint(0, 101, (2, 9, 6), generator=torch.Generator().manual_seed(2))
    assert torch.equal(module.add(hidden, ids), hidden)
    tiny.randomise(torch.nn.ModuleDict({"x": torch.nn.ModuleDict({"engram": module})}))
    assert not torch.equal(module.add(hidden, ids), hidden)
    module.reset_parameters("zero-table")
    assert torch.equal(module.add(hidden, ids), hidden)
    assert_orthogonal(value_of(module)[0], 1e-5 if dtype == torch.float32 else 0.05)


def test_the_command_takes_it_and_compares(base, tmp_path):
    config = tmp_path / "memory.yaml"
    engram.write_config(config, tiny.memory_config())
    asked = ["--init", "zero-table", "--verify", "--json"]
    made = run("attach", base, "-c", config, "-o", tmp_path / "out", *asked)
    assert made.json()["max_logit_difference"] == 0.0
