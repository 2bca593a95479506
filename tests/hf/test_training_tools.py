"""What people train with: compile, LoRA, DDP, FSDP, placement over devices, pipelines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import engram
from support import tiny
from support.near import assert_near
from support.paths import TESTS

IDS = torch.randint(3, tiny.VOCAB, (2, 17), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def attached(request, tmp_path_factory):
    return tiny.family_folders(request.param, tmp_path_factory)[1]


@pytest.fixture
def model(attached):
    return tiny.randomise(engram.load(attached))


def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def test_compiles_without_a_graph_break(model):
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert_near(logits(compiled), logits(model), 128)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_lora_on_the_backbone(model, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    names = {"c_attn", "q_proj", "v_proj"}
    targets = [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in names and ".engram." not in name
    ]
    before = logits(model)
    is_gpt2 = model.config.model_type == "engram_gpt2"
    settings = LoraConfig(
        r=2, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=is_gpt2
    )
    lora = get_peft_model(model, settings)
    assert torch.equal(logits(lora), before)
    lora.train()(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    trained = {name for name, weight in lora.named_parameters() if weight.grad is not None}
    assert trained
    assert all("lora" in name for name in trained)
    for name, weight in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    after = logits(lora.eval())
    assert (after - before).abs().max() > 1e-3
    lora.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(lora.unload(), tmp_path)
    assert_near(logits(again), after)


def test_a_step_of_training_changes_the_logits_and_is_saved(model, tmp_path):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    optimizer.step()
    model.eval().save_pretrained(tmp_path)
    assert torch.equal(logits(engram.load(tmp_path)), logits(model))


def test_the_table_apart_from_its_layer(attached, tmp_path):
    """device_map="auto" with less room than the table needs puts what does not fit elsewhere."""
    model = tiny.randomise(engram.load(attached))
    model.save_pretrained(tmp_path / "random")
    table_bytes = max(
        weight.numel() * 4 for name, weight in model.named_parameters() if "multi_head" in name
    )
    placed = engram.load(
        tmp_path / "random",
        device_map="auto",
        max_memory={"cpu": table_bytes // 2, "disk": 10**9},
        offload_folder=tmp_path / "offload",
    )
    tables = [place for name, place in placed.hf_device_map.items() if "engram" in name]
    assert "disk" in placed.hf_device_map.values(), placed.hf_device_map
    assert torch.equal(logits(placed), logits(model)), tables


def test_pipeline(attached):
    import engram.hf  # noqa: F401

    generate = pipeline("text-generation", model=str(attached), max_new_tokens=4, do_sample=False)
    assert generate("hello")[0]["generated_text"].startswith("hello")


def test_remote_code_loads_without_importing_the_toolkit_first(
    attached, forks_without_the_toolkit, tmp_path
):
    code = f"""
import json, sys
assert "engram" not in sys.modules
from transformers import AutoModelForCausalLM, AutoTokenizer
try:
    AutoModelForCausalLM.from_pretrained({str(attached)!r})
except ValueError as error:
    loud = "custom code" in str(error)
model = AutoModelForCausalLM.from_pretrained({str(attached)!r}, trust_remote_code=True)
print("\\n" + json.dumps([loud, type(model).__name__, type(model.config).__name__]))
"""
    run = forks_without_the_toolkit.run([code], tmp_path, is_program=True)
    assert run.code == 0, run.stderr
    loud, model_class, config_class = json.loads(run.stdout.splitlines()[-1])
    assert loud
    assert model_class.startswith("Engram")
    assert config_class.startswith("Engram")


def test_remote_code_is_saved_right(attached, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(attached, trust_remote_code=True)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(attached).save_pretrained(tmp_path)
    files = {path.name for path in Path(tmp_path).glob("*.py")}
    assert files == {"modeling_engram.py"}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"]["AutoModelForCausalLM"].startswith("modeling_engram.Engram")
    assert torch.equal(logits(engram.load(tmp_path)), logits(model))


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import engram
from support import tiny
import torch.distributed as dist

kind, folder, rank, port = sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
torch.set_num_threads(1)
model = tiny.randomise(engram.load(folder)).train()
ids = torch.randint(3, tiny.VOCAB, (4, 17), generator=torch.Generator().manual_seed(5))
mine = ids[2 * rank : 2 * rank + 2]
names = [name for name, _ in model.named_parameters()]
model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
model.zero_grad()
if kind == "ddp":
    parallel = torch.nn.parallel.DistributedDataParallel(model)
else:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    for layer in model.get_decoder().engram_layers:
        fully_shard(layer, mesh=mesh)
    parallel = fully_shard(model, mesh=mesh)
parallel(input_ids=mine, labels=mine, use_cache=False).loss.backward()
for name, weight in model.named_parameters():
    grad = weight.grad.full_tensor() if hasattr(weight.grad, "full_tensor") else weight.grad
    bound = 1e-4 * expected[name].abs().max().item()
    torch.testing.assert_close(grad, expected[name], rtol=0, atol=bound, msg=name)
print("equal gradients for", len(names), "weights")
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_give_the_gradients_of_one(kind, tmp_path_factory):
    import socket

    folder = tiny.family_folders("llama", tmp_path_factory)[1]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                WORKER,
                str(TESTS),
                kind,
                folder,
                str(rank),
                str(port),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err[-2000:]
        assert "equal gradients" in out
