"""The module piece by piece: with the window that decoding remembers, equal to the whole."""

from __future__ import annotations

import itertools

import pytest
import torch

from engram.nn.module import GatedTokens
from support.demo_modules import make_config, make_inputs, make_module


@pytest.mark.parametrize("kernel", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_chunks_with_a_window_equal_the_whole(kernel, dtype):
    module = make_module(make_config(hc_mult=2, kernel_size=kernel)).to(dtype)
    assert module.window_tokens == (kernel - 1) * 3
    hidden, ids = make_inputs(module, length=40, dtype=dtype)
    keep = torch.ones(2, 40, dtype=torch.bool)
    keep[0, :7] = False
    whole, all_past = module(hidden, ids, keep=keep, return_past=True)
    assert all_past.window.shape == (2, module.window_tokens, 2 * 12)
    exact = {"rtol": 0, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 0.02, "atol": 0.02}
    generator = torch.Generator().manual_seed(kernel)
    for _ in range(6):
        cuts = [0, *sorted(torch.randint(0, 41, (5,), generator=generator).tolist()), 40]
        outs, gates, window = [], [], None
        for start, end in itertools.pairwise(cuts):
            part = slice(start, end)
            if gates and start % 2:
                # What was forgotten is computed again from ids and gates.
                seen = slice(max(0, start - module.window_tokens), start)
                window = GatedTokens(ids[:, seen], torch.cat(gates, dim=1)[:, seen])
                # Hooks that move arguments to a device may hand on a tuple without a name.
                window = tuple(window) if start % 4 == 1 else window
            out, past = module(
                hidden[:, part], ids[:, part], keep=keep[:, part], window=window, return_past=True
            )
            outs.append(out)
            gates.append(past.gates)
            window = past.window
        torch.testing.assert_close(torch.cat(outs, dim=1), whole, **exact)
        torch.testing.assert_close(torch.cat(gates, dim=1), all_past.gates, **exact)
        torch.testing.assert_close(window, all_past.window, **exact)


def test_windows_may_be_shorter_than_the_taps_reach_or_longer():
    module = make_module(make_config()).double()
    hidden, ids = make_inputs(module, dtype=torch.float64)
    whole = module(hidden, ids)
    _, past = module(hidden[:, :4], ids[:, :4], return_past=True)
    for window in (past.window[:, -4:], torch.nn.functional.pad(past.window, (0, 0, 3, 0))):
        torch.testing.assert_close(module(hidden[:, 4:], ids[:, 4:], window=window), whole[:, 4:])


def test_gradients_flow_through_the_window():
    module = make_module(make_config()).double()
    hidden, ids = make_inputs(module, dtype=torch.float64)
    hidden.requires_grad_()
    weight = torch.randn(2, 21, 1, 12, dtype=torch.float64)
    whole = torch.autograd.grad((module(hidden, ids) * weight).sum(), hidden)[0]
    first, past = module(hidden[:, :10], ids[:, :10], return_past=True)
    second = module(hidden[:, 10:], ids[:, 10:], window=past.window)
    parts = torch.autograd.grad((torch.cat([first, second], 1) * weight).sum(), hidden)[0]
    torch.testing.assert_close(parts, whole)
