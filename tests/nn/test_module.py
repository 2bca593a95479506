"""The module: a plain loop as second opinion, masks, dtypes, gradients, starts."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from engram.addressing.primes import head_primes
from engram.errors import LayoutError
from engram.layouts import get_layout
from engram.nn import DemoModule, EngramModule
from support.demo_modules import make_config, make_inputs, make_module


def plain_loop(module: EngramModule, hidden, ids, keep=None):
    """Compute LAYOUTS 1.6 with a loop over sequences, tokens, streams and taps, in float64.

    Masked tokens are left out, as if they were not there.
    """
    config = module.config
    p = {name: tensor.double() for name, tensor in module.state_dict(keep_vars=True).items()}
    table, offsets = p["multi_head_embedding.embedding.weight"], p["multi_head_embedding.offsets"]
    d, taps, step = config.hidden_size, config.kernel_size, config.max_ngram_size
    eps = torch.finfo(torch.float64).eps if config.eps is None else config.eps

    def rms(x, weight, eps):
        return x / (x.square().mean() + eps).sqrt() * weight

    out = torch.zeros(hidden.shape, dtype=torch.float64)
    streams = config.hc_mult
    for b in range(hidden.shape[0]):
        kept = [t for t in range(hidden.shape[1]) if keep is None or keep[b, t]]
        gated, normed = [], []
        for t in kept:
            e = torch.cat([table[int(i + o)] for i, o in zip(ids[b, t], offsets, strict=True)])
            value = p["value_proj.weight"] @ e + p["value_proj.bias"]
            for m in range(streams):
                part = slice(m * d, (m + 1) * d)
                key = p["key_proj.weight"][part] @ e + p["key_proj.bias"][part]
                k = rms(key, p["norm_key"][m], eps)
                q = rms(hidden[b, t, m].double(), p["norm_query"][m], eps)
                a = (k * q).sum() / math.sqrt(d)
                gate = torch.sigmoid(a.abs().clamp_min(1e-6).sqrt() * a.sign())
                gated.append(gate * value)
                normed.append(rms(gate * value, p["conv_norm"][m], 1e-5))
        for place, t in enumerate(kept):
            for m in range(streams):
                y = torch.zeros(d, dtype=torch.float64)
                for tap in range(taps):
                    before = place - (taps - 1 - tap) * step
                    if before >= 0:
                        weight = p["conv.weight"][m * d : (m + 1) * d, 0, tap]
                        y = y + weight * normed[before * streams + m]
                out[b, t, m] = gated[place * streams + m] + y * torch.sigmoid(y)
    return out


@pytest.mark.parametrize("streams", [1, 2, 4])
@pytest.mark.parametrize("kernel", [1, 3, 4])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_equals_the_plain_loop(streams, kernel, order):
    config = make_config(hc_mult=streams, kernel_size=kernel, max_ngram_size=order)
    module = make_module(config)
    hidden, ids = make_inputs(module)
    keep = torch.rand(2, 21) > 0.3
    module.double()
    torch.testing.assert_close(
        module(hidden.double(), ids, keep=keep),
        plain_loop(module, hidden, ids, keep),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.01)]
)
def test_dtypes(dtype, tolerance):
    module = make_module(make_config(hc_mult=2)).to(dtype)
    hidden, ids = make_inputs(module, dtype=dtype)
    out = module(hidden, ids)
    assert out.dtype == dtype
    expected = plain_loop(module, hidden, ids)
    assert (out.double() - expected).abs().max() < tolerance * expected.abs().max()


def test_epsilons():
    # Tiny hidden states show the epsilon: the machine's by default, in half precision float32's.
    for eps, dtype in [(None, torch.float32), (None, torch.bfloat16), (0.5, torch.float32)]:
        module = make_module(make_config(eps=eps)).to(dtype)
        hidden, ids = make_inputs(module)
        hidden = (hidden * 3e-4).to(dtype)
        machine = torch.finfo(torch.float32).eps
        same = make_module(make_config(eps=machine if eps is None else eps)).to(dtype).double()
        tolerance = 0.05 if dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(
            module(hidden, ids).double(),
            plain_loop(same, hidden, ids),
            rtol=tolerance,
            atol=tolerance,
        )
        other = make_module(make_config(eps=0.01)).to(dtype)
        assert (module(hidden, ids) - other(hidden, ids)).abs().max() > 0.02


def test_an_all_zero_query_opens_the_gate_by_half():
    module = make_module(make_config(kernel_size=1)).double()
    hidden, ids = make_inputs(module, dtype=torch.float64)
    torch.nn.init.zeros_(module.conv.weight)
    value = module.value_proj(module.multi_head_embedding(ids).double())
    out = module(torch.zeros_like(hidden), ids)
    torch.testing.assert_close(out[:, :, 0], value / 2, rtol=1e-12, atol=0)


def test_mixed_dtypes_and_autocast():
    config = make_config(table_dtype="bfloat16", hc_mult=2)
    module = make_module(config)
    assert module.multi_head_embedding.embedding.weight.dtype == torch.bfloat16
    assert module.key_proj.weight.dtype == torch.float32
    hidden, ids = make_inputs(module)
    expected = plain_loop(module, hidden, ids)
    assert (module(hidden, ids) - expected).abs().max() < 1e-5 * expected.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(hidden, ids)
    assert out.dtype == torch.float32
    assert (out - expected).abs().max() < 0.05 * expected.abs().max()


def test_gradients_equal_the_plain_loop():
    module = make_module(make_config(hc_mult=2)).double()
    hidden, ids = make_inputs(module, length=11, dtype=torch.float64)
    hidden.requires_grad_()
    keep = torch.ones(2, 11, dtype=torch.bool)
    keep[0, :3] = False
    weight = torch.randn_like(hidden)
    inputs = [hidden, *module.parameters()]
    found = torch.autograd.grad((module(hidden, ids, keep=keep) * weight).sum(), inputs)
    wanted = torch.autograd.grad((plain_loop(module, hidden, ids, keep) * weight).sum(), inputs)
    names = ["hidden_states", *dict(module.named_parameters())]
    for name, mine, theirs in zip(names, found, wanted, strict=True):
        assert theirs.abs().max() > 1e-3, name
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9, msg=name)


def test_gradients_in_half_precision():
    exact = make_module(make_config(hc_mult=2)).double()
    module = copy.deepcopy(exact).bfloat16()
    exact.load_state_dict({k: v.double() for k, v in module.state_dict().items()})
    hidden, ids = make_inputs(module, dtype=torch.bfloat16)
    module(hidden, ids).square().sum().backward()
    exact(hidden.double(), ids).square().sum().backward()
    for (name, mine), theirs in zip(module.named_parameters(), exact.parameters(), strict=True):
        assert mine.grad.dtype == torch.bfloat16
        error = (mine.grad.double() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 0.03, name


def test_one_stream_takes_hidden_states_with_and_without_it():
    module = make_module(make_config())
    hidden, ids = make_inputs(module)
    flat = module(hidden[:, :, 0], ids)
    assert flat.shape == (2, 21, 12)
    assert torch.equal(flat, module(hidden, ids)[:, :, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identity_adds_exactly_nothing_and_can_learn(dtype):
    module = make_module(make_config(hc_mult=2))
    module.reset_parameters("identity")
    torch.nn.init.normal_(module.conv.weight)
    module.to(dtype)
    hidden, ids = make_inputs(module, dtype=dtype)
    out = module(hidden, ids)
    assert torch.count_nonzero(out) == 0
    assert torch.equal(module.add(hidden, ids), hidden)
    out.sum().backward()
    assert torch.count_nonzero(module.value_proj.weight.grad) > 0
    module.reset_parameters("identity")
    assert torch.count_nonzero(module.conv.weight) == 0


def test_initialisation():
    config = make_config(engram_table_size=[2000, 2000])
    for module in (
        EngramModule(config, head_primes(config)[1]),
        make_module(config, init="identity"),
    ):
        if not module.conv.weight.any():
            built = {k: v.clone() for k, v in module.state_dict().items()}
        module.multi_head_embedding.offsets.zero_()
        module.reset_parameters("paper")
        state = module.state_dict()
        assert state.keys() == built.keys()
        assert torch.count_nonzero(state["conv.weight"]) == 0
        for norm in ("norm_key", "norm_query", "conv_norm"):
            assert torch.equal(state[norm], torch.ones(1, 12))
        assert torch.equal(
            state["multi_head_embedding.offsets"], built["multi_head_embedding.offsets"]
        )
        table = state["multi_head_embedding.embedding.weight"]
        assert abs(table.mean()) < 0.05
        assert abs(table.std() - 1) < 0.05
        bound = 1 / math.sqrt(config.memory_width)
        for name in ("value_proj", "key_proj"):
            weight = state[f"{name}.weight"]
            assert 0.8 * bound < weight.abs().max() <= bound


def test_add_includes_the_hidden_states():
    module = make_module(make_config(hc_mult=2))
    hidden, ids = make_inputs(module)
    assert torch.equal(module.add(hidden, ids), hidden + module(hidden, ids))


def test_masked_positions_get_nothing_and_give_nothing():
    module = make_module(make_config(hc_mult=2)).double()
    hidden, ids = make_inputs(module, batch=3, dtype=torch.float64)
    keep = torch.ones(3, 21, dtype=torch.bool)
    keep[1, :8] = False
    keep[2, 5:9] = False
    out, past = module(hidden, ids, keep=keep, return_past=True)
    assert not out[~keep].any()
    assert not past.gates[~keep].any()
    assert torch.equal(module.add(hidden, ids, keep=keep)[~keep], hidden[~keep])
    assert torch.equal(out, module(hidden, ids, keep=keep.long()))
    # What is masked does not matter, not even if it is not a number.
    spoiled, other = hidden.clone(), ids.clone()
    spoiled[~keep] = torch.nan
    other[~keep] = 0
    assert torch.equal(module(spoiled, other, keep=keep), out)
    # A left-padded row equals the row alone; so does one that nothing masks.
    torch.testing.assert_close(module(hidden[1:2, 8:], ids[1:2, 8:]), out[1:2, 8:])
    torch.testing.assert_close(module(hidden[:1], ids[:1]), out[:1])


def test_four_dimensional_ids():
    config = make_config(layer_ids=[3, 1])
    primes = head_primes(config)
    module = make_module(config, layer_id=1)
    hidden, ids = make_inputs(module)
    assert (module.layer_id, module.slot) == (1, 1)
    both = torch.stack([torch.zeros_like(ids), ids], dim=2)
    assert torch.equal(module(hidden, both), module(hidden, ids))
    with pytest.raises(LayoutError, match="for 1 layers"):
        module(hidden, both[:, :, :1])
    plain = EngramModule(config=config, layer_vocab_sizes=[list(row) for row in primes[1]])
    plain.load_state_dict(module.state_dict())
    assert (plain.layer_id, plain.slot) == (None, None)
    assert torch.equal(plain(hidden, ids), module(hidden, ids))
    with pytest.raises(LayoutError, match="plain list"):
        plain(hidden, both)


def test_what_does_not_fit_is_refused():
    config = make_config(hc_mult=2)
    module = make_module(config)
    hidden, ids = make_inputs(module)
    for wrong in (hidden[:, :, 0], hidden[:, :, :1], hidden[..., :11]):
        with pytest.raises(LayoutError, match="must have the shape \\[B, T, 2, 12\\]"):
            module(wrong, ids)
    with pytest.raises(LayoutError, match="hash_ids is"):
        module(hidden, ids[:, :-1])
    with pytest.raises(LayoutError, match="hash_ids is"):
        module(hidden, ids[0])
    with pytest.raises(LayoutError, match="keep is"):
        module(hidden, ids, keep=torch.ones(2, 20, dtype=torch.bool))
    with pytest.raises(LayoutError, match="3 columns"):
        module(hidden, ids[..., :3])
    wrong = ids.clone()
    wrong[1, 4, 2] = module.multi_head_embedding.head_sizes[2]
    with pytest.raises(LayoutError, match=r"at \[1, 4, 2\]") as error:
        module(hidden, wrong)
    assert error.value.details["position"] == [1, 4, 2]
    wrong[1, 4, 2] = -1
    with pytest.raises(LayoutError, match="Hash id -1"):
        module(hidden, wrong)
    with pytest.raises(LayoutError, match="heads per order"):
        EngramModule(config, [[97, 101], [103]])


def test_layouts_without_a_module(monkeypatch):
    config = make_config()
    monkeypatch.setattr(EngramModule, "variants", {"other": DemoModule})
    with pytest.raises(LayoutError, match="Layout demo has no module yet") as error:
        EngramModule(config, head_primes(config)[1])
    assert "other" in error.value.hint


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("kernel", [1, 4])
@pytest.mark.parametrize("width", [8, 20])
@pytest.mark.parametrize("multiple", [1, 128])
def test_parameters_equal_the_closed_form(streams, order, kernel, width, multiple):
    config = make_config(
        hc_mult=streams,
        max_ngram_size=order,
        kernel_size=kernel,
        n_embed_per_ngram=width,
        n_head_per_ngram=4,
        row_multiple=multiple,
    )
    primes = head_primes(config)[1]
    module = EngramModule(config, primes, device="meta")
    counted = module.count_parameters()
    rows = -(-sum(map(sum, primes)) // multiple) * multiple
    assert counted == {
        "table": rows * config.row_width,
        **get_layout("demo").dense_parts(config.sizes),
    }
    assert sum(counted.values()) == sum(p.numel() for p in module.parameters())


def test_padded_rows_change_nothing():
    config, padded = make_config(), make_config(row_multiple=128)
    module, other = make_module(config), make_module(padded)
    state = module.state_dict()
    table = state["multi_head_embedding.embedding.weight"]
    stored = other.multi_head_embedding.embedding.weight
    assert len(stored) % 128 == 0
    assert len(stored) > len(table)
    state["multi_head_embedding.embedding.weight"] = torch.cat([table, stored[len(table) :]])
    other.load_state_dict(state)
    hidden, ids = make_inputs(module)
    assert torch.equal(module(hidden, ids), other(hidden, ids))


def test_compiles_as_one_graph_and_can_be_recomputed():
    module = make_module(make_config(hc_mult=2))
    hidden, ids = make_inputs(module)
    hidden.requires_grad_()
    keep = torch.rand(2, 21) > 0.2
    window = torch.randn(2, 9, 24)

    def gradients(call):
        inputs = [hidden, *module.parameters()]
        return torch.autograd.grad(call(hidden, ids, keep=keep, window=window).sum(), inputs)

    def recomputed(*args, **kwargs):
        return torch.utils.checkpoint.checkpoint(module, *args, use_reentrant=False, **kwargs)

    wanted = gradients(module)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for call in (compiled, recomputed):
        for mine, theirs in zip(gradients(call), wanted, strict=True):
            torch.testing.assert_close(mine, theirs)
