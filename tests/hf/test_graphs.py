"""Graphs, quantised copies and continuous batching: right for every input, or refused in words."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import engram
from engram.errors import InputError, MismatchError
from support import tiny
from support.near import assert_near

GENERATOR = torch.Generator().manual_seed(5)
IDS, OTHER = (torch.randint(3, tiny.VOCAB, (2, 17), generator=GENERATOR) for _ in range(2))
LONGER = torch.randint(3, tiny.VOCAB, (2, 23), generator=GENERATOR)
CONFIGS = {
    "demo": {},
    "deepseek_v41": {"seed": 0, "kernel_size": 0, "engram_table_size": [302, 302, 302]},
    "qwen_ple": {"eos_id": 1, "engram_table_size": [302, 302, 302]},
}


class Logits(nn.Module):
    """A model as a function of tensors alone."""

    def __init__(self, model: nn.Module, **options: object) -> None:
        super().__init__()
        self.model, self.options = model, options

    def forward(self, ids, mask=None):
        return self.model(input_ids=ids, attention_mask=mask, **self.options).logits


@pytest.fixture(scope="module", params=["gpt2", "llama", "bloom"])
def model(request, tmp_path_factory):
    folder = tiny.family_folders(request.param, tmp_path_factory)[1]
    return tiny.randomise(engram.load(folder)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tiny.family_folders("llama", tmp_path_factory)[1]
    return tiny.randomise(engram.load(folder)).eval().requires_grad_(False)


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def of_layout(request, tmp_path_factory):
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    config = tiny.memory_config(layout=request.param, **CONFIGS[request.param])
    folder = tiny.attached_model(base, tmp_path_factory.mktemp("layout") / "attached", config)
    return tiny.randomise(engram.load(folder)).eval().requires_grad_(False)


def logits(model, ids=IDS, mask=None):
    return Logits(model, use_cache=False)(ids, mask)


def trace(module, *inputs):
    return torch.jit.trace(module, inputs)  # traced twice, and compared


pytestmark = [
    # torch's own, of what it means to remove and of sizes that Python sees.
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning"),
    # A global of transformers' own.
    pytest.mark.filterwarnings("ignore:.*double check....G[^,]*_active_collector:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
]


@pytest.mark.parametrize("use_cache", [False, True])
def test_a_trace_is_right_for_other_inputs(model, use_cache):
    traced = trace(Logits(model, use_cache=use_cache), IDS)
    for ids in (IDS, OTHER, LONGER):
        assert_near(traced(ids), logits(model, ids))


def test_a_trace_is_right_for_other_masks(llama):
    mask = torch.ones_like(IDS)
    traced = trace(Logits(llama, use_cache=False), IDS, mask)
    mask[0, :4] = 0
    mask[1, 9:11] = 0
    kept = mask.bool()
    assert_near(traced(OTHER, mask)[kept], logits(llama, OTHER, mask)[kept])


def test_traces_of_every_layout(of_layout):
    ids, other = IDS.clone(), OTHER.clone()
    other[0, 6] = other[1, 11] = 1  # ends of documents, at other places
    traced = trace(Logits(of_layout, use_cache=False), ids)
    assert_near(traced(other), logits(of_layout, other))


def test_a_trace_with_a_cache_is_refused(llama):
    past = llama(input_ids=IDS, use_cache=True)
    name = "cache" if "cache" in past else "past_key_values"
    step = Logits(llama, **{name: past[name]})
    with pytest.raises(InputError, match="would lose the memory's past"):
        trace(step, OTHER[:, :1])


def test_copies_compile_without_a_graph_break(llama):
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(llama), backend="eager", fullgraph=True)
    assert_near(logits(compiled), logits(llama))


@pytest.mark.parametrize("strict", [False, True])
def test_copies_are_exported_for_texts_of_any_length(llama, strict):
    sizes = ({1: torch.export.Dim("tokens", min=2, max=64)},)
    copied = Logits(copy.deepcopy(llama), use_cache=False)
    program = torch.export.export(copied, (IDS,), dynamic_shapes=sizes, strict=strict).module()
    for ids in (IDS, OTHER, LONGER, OTHER[:, :5]):
        assert_near(program(ids), logits(llama, ids))
    # The model is as good as before: nothing of the export's tensors without values stays in it.
    assert_near(trace(copied, IDS)(OTHER), logits(llama, OTHER))


def test_a_map_that_was_never_checked_is_refused_in_words(llama):
    torch._dynamo.reset()
    unchecked = copy.deepcopy(llama)
    unchecked.get_decoder().engram_ids.ever_checked = False
    compiled = torch.compile(unchecked, backend="eager", fullgraph=True)
    # torch.compile raises an error of its own, with ours in it; exporting and tracing raise ours.
    with pytest.raises(RuntimeError, match=r"not checked before.*\n.*check_token_map"):
        logits(compiled)
    with pytest.raises(MismatchError, match=r"not checked before.*\n.*check_token_map"):
        trace(Logits(unchecked, use_cache=False), IDS)


def test_an_export_with_a_static_cache_is_refused(llama):
    from transformers.integrations.executorch import convert_and_export_with_cache

    copied = copy.deepcopy(llama)
    settings = copied.generation_config
    settings.use_cache, settings.cache_implementation = True, "static"
    settings.cache_config = {"batch_size": 1, "max_cache_len": 32}
    with pytest.raises(InputError, match=r"would lose the memory's past.*\n.*use_cache=False"):
        convert_and_export_with_cache(copied)


def test_linear_layers_quantised_by_torch(of_layout):
    quantised = torch.ao.quantization.quantize_dynamic(of_layout, {nn.Linear}, dtype=torch.qint8)
    dynamic = torch.ao.nn.quantized.dynamic.Linear
    memory = quantised.get_decoder().layers[2].engram
    assert any(isinstance(module, dynamic) for module in memory.modules())
    expected = logits(of_layout)
    # Weights of 7 bits and a sign, inputs of 8: a few hundredths of the values' size.
    assert (logits(quantised) - expected).norm() < 0.1 * expected.norm()
    without = copy.deepcopy(of_layout)
    for layer_id in (1, 2):
        without.get_decoder().layers[layer_id].engram.reset_parameters("identity")
    assert (logits(without) - expected).norm() > 0.3 * expected.norm()
    # generate() with windows that are computed again from gates, too.
    assert quantised.generate(IDS[:1], max_new_tokens=4, do_sample=False).shape[1] > IDS.shape[1]


def test_continuous_batching_is_refused_before_it_starts(llama):
    with pytest.raises(InputError, match=r"Continuous batching.*\nUse generate\(\)"):
        llama.generate_batch([[5, 6, 7], [8, 9]])
    with pytest.raises(InputError, match=r"Continuous batching.*\nUse generate\(\)"):
        llama.init_continuous_batching()


def test_the_cache_of_continuous_batching_is_refused(llama):
    from transformers.generation.continuous_batching import PagedAttentionCache

    name = "cache" if "cache" in llama(input_ids=IDS) else "past_key_values"
    paged = PagedAttentionCache.__new__(PagedAttentionCache)
    with pytest.raises(InputError, match=r"Continuous batching.*\nUse generate\(\)"):
        llama(input_ids=IDS, attention_mask=torch.ones(1, 1, 17, 17), **{name: paged})
