"""The compiled passes of a training step against torch's operations."""

import copy

import pytest
import torch
import torch.nn.utils.prune

from engram.addressing.primes import head_primes
from engram.config.engram_config import EngramConfig
from engram.errors import EngramWarning
from engram.nn import EngramModule, fused_read
from engram.nn.fused_read import _FusedRead

HIDDEN = 40


@pytest.fixture
def fused_calls(monkeypatch):
    """Fuse reads of any size, and count them."""
    assert fused_read._works()
    monkeypatch.setattr(fused_read, "MIN_VALUES", 1)
    calls = []
    apply = _FusedRead.apply
    monkeypatch.setattr(_FusedRead, "apply", lambda *args: (calls.append(1), apply(*args))[1])
    return calls


def build(layout, streams=1, kernel=4, **changes):
    config = EngramConfig(
        layout=layout,
        hidden_size=HIDDEN,
        engram_vocab_size=97,
        engram_table_size=[64, 64],
        n_embed_per_ngram=24,
        n_head_per_ngram=4,
        layer_ids=[0],
        hc_mult=streams,
        kernel_size=kernel,
        pad_id=0,
        eos_id=1 if layout == "qwen_ple" else None,
        **changes,
    )
    module = EngramModule(config, head_primes(config)[0])
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        start = 1.0 if "norm" in name and layout == "demo" else 0.0
        torch.nn.init.normal_(parameter, start, 0.5, generator=generator)
    return module


def random_inputs(module, batch, length, held, masked):
    generator = torch.Generator().manual_seed(1)
    streams = module.config.hc_mult
    hidden = torch.randn(batch, length, streams, HIDDEN, generator=generator)
    sizes = torch.tensor(module.multi_head_embedding.head_sizes)
    ids = (torch.rand(batch, length, len(sizes), generator=generator) * sizes).long()
    window = None
    if held is not None:
        window = torch.randn(batch, held, streams * HIDDEN, generator=generator)
    keep = torch.rand(batch, length, generator=generator) > 0.3 if masked else None
    return hidden, ids, keep, window


def results_and_gradients(module, hidden, ids, keep, window):
    """Return everything that a call gives, with gradients through all of its results."""
    module.zero_grad()
    dtype = next(module.parameters()).dtype
    hidden = hidden.to(dtype, copy=True).requires_grad_()
    window = None if window is None else window.to(dtype, copy=True).requires_grad_()
    out, past = module(hidden, ids, keep=keep, window=window, return_past=True)
    generator = torch.Generator().manual_seed(2)
    loss = sum(
        (it * torch.randn(it.shape, generator=generator)).sum()
        for it in (out, past.window, past.gates)
    )
    loss.backward()
    found = {"out": out, "window": past.window, "gates": past.gates, "d hidden": hidden.grad}
    if window is not None:
        found["d window"] = window.grad
    found |= {f"d {name}": parameter.grad for name, parameter in module.named_parameters()}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def compare(module, inputs, calls):
    """Compare with torch's operations in float64: as near as those in float32 are.

    Where key and hidden state hardly agree, the gate's slope makes rounding visible in both.
    """
    fused = results_and_gradients(module, *inputs)
    assert calls == [1]
    exact = results_and_gradients(copy.deepcopy(module).double(), *inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_read, "MIN_VALUES", 2**60)
        plain = results_and_gradients(module, *inputs)
    assert calls == [1]
    assert fused.keys() == exact.keys()
    for name, wanted in exact.items():
        if wanted.numel():
            mine, theirs = ((it[name] - wanted).norm() / wanted.norm() for it in (fused, plain))
            assert mine <= 1e-6 + 3 * theirs, name
            assert theirs < 0.02, name


@pytest.mark.parametrize("layout", ["demo", "qwen_ple"])
@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("kernel", [1, 3, 4])
def test_equals_operations_of_torch(layout, streams, kernel, fused_calls):
    module = build(layout, streams, kernel)
    # Several units of work, of which the last is shorter than the taps reach.
    compare(module, random_inputs(module, 2, 517, None, False), fused_calls)


@pytest.mark.parametrize("held", [0, 2, 9, 12])
@pytest.mark.parametrize("length", [1, 5, 9, 40])
@pytest.mark.parametrize("streams", [1, 2])
def test_windows(held, length, streams, fused_calls):
    module = build("demo", streams)
    compare(module, random_inputs(module, 2, length, held, False), fused_calls)


@pytest.mark.parametrize("held", [None, 9])
@pytest.mark.parametrize("streams", [1, 2])
def test_masks_inside_rows(held, streams, fused_calls):
    module = build("qwen_ple", streams)
    assert module.layout.masked == "dead"
    compare(module, random_inputs(module, 3, 300, held, True), fused_calls)


def test_masks_before_rows(fused_calls):
    module = build("demo")
    hidden, ids, _, _ = random_inputs(module, 3, 300, None, False)
    keep = torch.arange(300) >= torch.tensor([[0], [7], [290]])
    compare(module, (hidden, ids, keep, None), fused_calls)


def test_gaps_stay_in_torch(fused_calls):
    module = build("demo")
    hidden, ids, keep, _ = random_inputs(module, 2, 20, None, True)
    module(hidden, ids, keep=keep)
    assert fused_calls == []


def test_epsilons(fused_calls):
    module = build("demo", eps=0.1)
    compare(module, random_inputs(module, 2, 30, None, False), fused_calls)


def test_the_number_of_threads_does_not_matter(fused_calls, monkeypatch):
    module = build("qwen_ple", 2)
    inputs = random_inputs(module, 3, 600, 9, True)
    # Only of the compiled passes: torch's own products of matrices may differ by threads.
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(results_and_gradients(module, *inputs))
    alone, shared = found
    torch.testing.assert_close(shared, alone, rtol=0, atol=0)
    assert len(fused_calls) == 2


def test_streams_without_gradients_get_none(fused_calls):
    module = build("demo")
    hidden, ids, *_ = random_inputs(module, 2, 20, None, False)
    module(hidden, ids).sum().backward()
    assert len(fused_calls) == 1
    assert hidden.grad is None
    assert module.key_proj.weight.grad.abs().max() > 0


def test_infinities_and_nan_are_not_hidden(fused_calls):
    module = build("demo")
    hidden, ids, *_ = random_inputs(module, 1, 20, None, False)
    with torch.no_grad():
        module.value_proj.bias[3] = float("nan")
    out = module(hidden, ids)
    assert len(fused_calls) == 1
    assert out.isnan().any(dim=-1).all()


def test_cannot_be_differentiated_twice(fused_calls):
    module = build("demo")
    hidden, ids, *_ = random_inputs(module, 1, 20, None, False)
    hidden.requires_grad_()
    weight = torch.ones_like(hidden, requires_grad=True)
    (grad,) = torch.autograd.grad(module(hidden, ids), hidden, weight, create_graph=True)
    assert len(fused_calls) == 1
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.to(torch.float64),
        lambda module: module.to(torch.bfloat16),
        lambda module: module.requires_grad_(False),
    ],
)
def test_others_stay_in_torch(change, fused_calls):
    module = build("demo")
    change(module)
    hidden, ids, *_ = random_inputs(module, 1, 20, None, False)
    module(hidden.to(module.conv.weight.dtype), ids)
    assert fused_calls == []


def test_documents_in_a_row_stay_in_torch(fused_calls):
    module = build("demo")
    hidden, ids, *_ = random_inputs(module, 1, 20, None, False)
    module(hidden, ids, since=torch.arange(20)[None])
    assert fused_calls == []


def test_small_reads_do_not_load_the_passes(monkeypatch):
    monkeypatch.setattr(fused_read, "_works", lambda: pytest.fail("loaded"))
    module = build("demo")
    hidden, ids, *_ = random_inputs(module, 1, 20, None, False)
    module(hidden, ids).sum().backward()


@pytest.mark.parametrize("layout", ["demo", "qwen_ple"])
def test_parts_with_hooks_are_called(layout, fused_calls):
    module, called = build(layout), []
    part = module.conv if layout == "demo" else module.norm_key
    part.register_forward_hook(lambda *_: called.append(1))
    hidden, ids, *_ = random_inputs(module, 1, 20, None, False)
    module(hidden, ids).sum().backward()
    assert called == [1]
    assert fused_calls == []


def test_a_pruned_convolution_is_trained(fused_calls):
    module = build("demo")
    torch.nn.utils.prune.random_unstructured(module.conv, "weight", 0.5)
    hidden, ids, *_ = random_inputs(module, 1, 20, None, False)
    for _ in range(2):
        module(hidden, ids).sum().backward()
    assert module.conv.weight_orig.grad.abs().max() > 0


@pytest.mark.parametrize("layout", ["demo", "qwen_ple"])
def test_masks_and_windows_may_change_before_the_backward_pass(layout, fused_calls):
    module = build(layout)
    hidden, ids, _, window = random_inputs(module, 2, 20, 9, False)
    keep = torch.ones(2, 20, dtype=torch.bool)
    keep[:, :4] = layout == "demo"
    gradients = []
    for change in (False, True):
        module.zero_grad()
        own_keep, own_window = keep.clone(), window.clone()
        out = module(hidden, ids, keep=own_keep, window=own_window)
        if change:
            own_keep.zero_()
            own_window.zero_()
        out.sum().backward()
        gradients.append(module.value_proj.weight.grad.clone())
    assert torch.equal(*gradients)
    assert fused_calls


def test_what_cannot_be_compiled_stays_in_torch_with_a_warning(monkeypatch):
    monkeypatch.setattr(fused_read, "MIN_VALUES", 1)
    monkeypatch.setattr(fused_read, "_kernels", lambda: (_ for _ in ()).throw(RuntimeError("LLVM")))
    fused_read._works.cache_clear()
    module = build("demo")
    hidden, ids, *_ = random_inputs(module, 1, 20, None, False)
    try:
        with pytest.warns(EngramWarning, match="LLVM"):
            out = module(hidden, ids)
        with torch.no_grad():
            torch.testing.assert_close(out, module(hidden, ids), rtol=0, atol=0)
    finally:
        fused_read._works.cache_clear()
