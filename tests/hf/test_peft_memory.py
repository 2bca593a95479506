"""PEFT around a memory: `modules_to_save=["engram"]`, several adapters, LoRA on its projections."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM

import engram
from engram.errors import LayoutError, MismatchError
from engram.hf.unwired import base_of
from support import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

IDS = torch.randint(3, tiny.VOCAB, (2, 17), generator=torch.Generator().manual_seed(5))
MEMORY = "base_model.model.model.layers.{}.engram."


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base, attached = tiny.family_folders("llama", tmp_path_factory)
    trained = tmp_path_factory.mktemp("trained")
    tiny.randomise(engram.load(attached)).save_pretrained(trained)
    return base, trained


@pytest.fixture
def fresh(folders):
    return lambda **options: engram.load(folders[1], **options).eval()


def settings(**changes):
    values = {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["engram"]}
    return LoraConfig(**{**values, "task_type": "CAUSAL_LM", **changes})


def trained(model, seed=3):
    """Give everything that an adapter has learned random values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model.eval()


@torch.no_grad()
def logits(model, ids=IDS):
    return model(input_ids=ids, use_cache=False).logits


def loss(model):
    return model.train()(input_ids=IDS, labels=IDS, use_cache=False).loss


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def memory_of(model, layer_id=2):
    return model.get_decoder().layers[layer_id].engram


def test_the_whole_memory_learns_beside_lora(fresh):
    before = logits(fresh())
    model = get_peft_model(fresh(), settings())
    assert torch.equal(logits(model), before)
    loss(model).backward()
    learns = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learns == {name for name, weight in model.named_parameters() if weight.grad is not None}
    parts = {name.split("default.")[1] for name in learns if ".engram." in name}
    assert parts == {name for name, _ in memory_of(fresh()).named_parameters()}
    for name, weight in model.named_parameters():
        if name in learns and "lora_A" not in name:  # lora_B is still zero
            assert weight.grad.abs().max() > 0, name


def test_gradient_checkpointing_gives_the_same_gradients(fresh):
    model = trained(get_peft_model(fresh(), settings()))
    loss(model).backward()
    expected = {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    loss(model).backward()
    for name, grad in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, grad, rtol=1e-5, atol=1e-7)


def test_saves_and_loads(fresh, tmp_path):
    model = trained(get_peft_model(fresh(), settings()))
    expected = logits(model)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        saved = {name for name in file.keys() if ".engram." in name}  # noqa: SIM118
    names = [(n, name) for n in (1, 2) for name in memory_of(fresh(), n).state_dict()]
    assert saved == {MEMORY.format(layer_id) + name for layer_id, name in names}
    assert torch.equal(logits(PeftModel.from_pretrained(fresh(), tmp_path).eval()), expected)
    by_transformers = fresh()
    by_transformers.load_adapter(str(tmp_path))
    assert torch.equal(logits(by_transformers.eval()), expected)
    assert not torch.equal(logits(fresh()), expected)


def test_adapters_switched_off_exchanged_and_merged(fresh, tmp_path):
    without = logits(fresh())
    model = trained(get_peft_model(fresh(), settings()))
    first = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), without)
    model.add_adapter("second", settings())
    model.set_adapter("second")
    assert torch.equal(logits(model), without)
    second = logits(trained(model, seed=4))
    assert (second - first).abs().max() > 1e-2
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    model.set_adapter("second")
    model.delete_adapter("default")
    assert torch.equal(logits(model), second)
    merged = model.merge_and_unload()
    close(logits(merged), second)
    merged.save_pretrained(tmp_path)
    assert torch.equal(logits(engram.load(tmp_path).eval()), logits(merged))


def test_decodes_as_the_full_forward(fresh):
    model = trained(get_peft_model(fresh(), settings()))
    out = model.generate(
        input_ids=IDS[:1],
        max_new_tokens=8,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    full = logits(model, out.sequences)
    close(torch.stack(out.logits, dim=1), full[:, IDS.shape[1] - 1 : -1])


def test_compiles_without_a_graph_break(fresh):
    torch._dynamo.reset()
    model = trained(get_peft_model(fresh(), settings()))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    close(logits(compiled), logits(model))


def test_dtypes(fresh):
    before = get_peft_model(fresh().to(torch.bfloat16), settings()).eval()
    after = get_peft_model(fresh(), settings()).to(torch.bfloat16).eval()
    assert logits(before).dtype == torch.bfloat16
    assert torch.equal(logits(before), logits(after))
    assert memory_of(after).token_map.dtype == torch.int32
    loss(before).backward()


@pytest.mark.parametrize("also", [None, ["engram"]])
def test_lora_on_all_linear_layers(fresh, tmp_path, also):
    before = logits(fresh())
    model = get_peft_model(fresh(), settings(target_modules="all-linear", modules_to_save=also))
    assert torch.equal(logits(model), before)
    on_memory = {n for n, _ in model.named_parameters() if ".engram." in n and "lora" in n}
    # A memory that is trained in full gets no LoRA.
    assert len(on_memory) == (0 if also else 8)
    loss(model).backward()
    assert all(w.grad is not None for w in model.parameters() if w.requires_grad)
    expected = logits(trained(model))
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(fresh(), tmp_path).eval()), expected)
    close(logits(model.merge_and_unload()), expected)


def test_lora_on_the_table_and_new_token_embeddings(fresh, tmp_path):
    # "multi_head_embedding.embedding" alone is a table; "embedding" ends the names of both.
    model = get_peft_model(
        fresh(),
        settings(
            target_modules=["multi_head_embedding.embedding", "v_proj"],
            modules_to_save=None,
            trainable_token_indices=[5, 6, 7],
        ),
    )
    expected = logits(trained(model))
    assert (expected - logits(fresh())).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(fresh(), tmp_path).eval()), expected)
    close(logits(model.merge_and_unload()), expected)


def test_the_base_of_a_model_with_an_adapter(folders, fresh):
    model = trained(get_peft_model(fresh(), settings()))
    plain = AutoModelForCausalLM.from_pretrained(folders[0])
    plain = get_peft_model(plain, settings(modules_to_save=None)).eval()
    lora = {name: weight for name, weight in model.named_parameters() if "lora" in name}
    plain.load_state_dict(lora, strict=False)
    assert torch.equal(logits(base_of(model)), logits(plain))


def test_a_table_on_disk_does_not_learn(fresh):
    model = get_peft_model(fresh(tables="disk"), settings())
    assert torch.equal(logits(model), logits(fresh()))
    with pytest.raises(
        LayoutError, match='read from disk and cannot be trained.\nLoad with tables="ram"'
    ):
        loss(model)


def test_the_rest_of_a_memory_learns_around_its_table_on_disk(fresh, tmp_path):
    model = get_peft_model(fresh(tables="disk"), settings())
    for layer_id in (1, 2):
        memory_of(model, layer_id).multi_head_embedding.embedding.requires_grad_(False)
    loss(model).backward()
    assert memory_of(model).value_proj.weight.grad.abs().max() > 0
    expected = logits(trained(model))
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(fresh(tables="disk"), tmp_path).eval()
    assert torch.equal(logits(again), expected)


def test_an_adapter_with_a_table_is_refused_where_tables_stay_on_disk(fresh, tmp_path):
    trained(get_peft_model(fresh(), settings())).save_pretrained(tmp_path)
    with pytest.raises(MismatchError, match="contains a table"):
        PeftModel.from_pretrained(fresh(tables="disk"), tmp_path)
    with pytest.raises(MismatchError, match="adapter_model.safetensors contains a table"):
        fresh(tables="disk").load_adapter(str(tmp_path))


def test_lora_loads_by_transformers_where_tables_stay_on_disk(fresh, tmp_path):
    model = trained(get_peft_model(fresh(), settings(modules_to_save=None)))
    model.save_pretrained(tmp_path)
    again = fresh(tables="disk")
    again.load_adapter(str(tmp_path))
    assert torch.equal(logits(again.eval()), logits(model))
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    given = fresh(tables="disk")
    given.load_adapter(adapter_state_dict=weights, peft_config=model.peft_config["default"])
    assert torch.equal(logits(given.eval()), logits(model))


@pytest.mark.parametrize("how", ["peft", "transformers"])
def test_an_adapter_of_another_tokenizer_is_refused(fresh, tmp_path, how):
    model = trained(get_peft_model(fresh(), settings()))
    memory_of(model).token_map.add_(1)
    model.save_pretrained(tmp_path)
    other = fresh()
    if how == "peft":
        other = PeftModel.from_pretrained(other, tmp_path)
    else:
        other.load_adapter(str(tmp_path))
    with pytest.raises(MismatchError, match="token map"):
        logits(other)


class Plain(nn.Module):
    """A wrapper that hands nothing on but calls."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize("tables", ["ram", "disk"])
def test_any_wrapper_that_is_called(fresh, tables):
    model, plain = fresh(tables=tables), fresh()
    for layer_id in (1, 2):
        layer = model.get_decoder().layers[layer_id]
        layer.engram = Plain(layer.engram)
    close(logits(model), logits(plain))
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(IDS, **options), plain.generate(IDS, **options))
