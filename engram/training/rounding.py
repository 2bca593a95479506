"""Stochastic rounding to bfloat16, with noise that depends on the place of a value alone.

A bfloat16 value near 1 changes in steps of 2^-7: rounding to nearest would drop nearly every update
of a trained row. Rounding up with the probability of the dropped bits keeps them on average.

The noise is a function of seed, step, row and column, not of a generator's state: a run that is
resumed, and one with other numbers of processes, round as the run that was not.

Shapes: n rows, W values of a row.
"""

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def round_to_bfloat16(values: Tensor, ids: Tensor, *, seed: int, step: int) -> Tensor:
    """Round float32 values to bfloat16, up or down by chance.

    Args:
        values: Values ``[n, W]``, float32.
        ids: Numbers of the rows in the whole table, int64 ``[n]``.
        seed: Seed of the run, which tells tables apart.
        step: Number of the step.

    Returns:
        Each value's lower or upper neighbour, bfloat16 ``[n, W]``; values that are bfloat16 already
        stay.
    """
    noise = _noise(ids, values.shape[1], seed, step)
    bits = values.float().contiguous().view(torch.int32)
    # The carry of the low half moves the upper half to the next value away from zero.
    rounded = ((bits + noise) & -65536).view(torch.float32)
    # Near infinity the sum would overflow: not finite values stay as they are.
    return rounded.where(values.isfinite() & rounded.isfinite(), values).to(torch.bfloat16)


def _noise(ids: Tensor, width: int, seed: int, step: int) -> Tensor:
    """Draw 16 uniform bits for each value ``[n, W]``, as int32."""
    words = -(-width // 4)  # one draw of 64 bits serves four values
    key = _signed(_mixed(_mixed(seed) ^ step))
    counters = ids[:, None] * words + torch.arange(words, device=ids.device)
    bits = counters * _signed(0x9E3779B97F4A7C15) + key
    bits = (bits ^ _shifted(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shifted(bits, 27)) * _signed(0x94D049BB133111EB)
    bits = bits ^ _shifted(bits, 31)
    parts = torch.stack([(bits >> shift) & 0xFFFF for shift in (0, 16, 32, 48)], dim=-1)
    return parts.flatten(1)[:, :width].to(torch.int32)


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Shift right without the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _mixed(word: int) -> int:
    """Scramble 64 bits (splitmix64)."""
    word = (word + 0x9E3779B97F4A7C15) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def _signed(word: int) -> int:
    """Read 64 bits as the int64 that torch multiplies with."""
    return word - (1 << 64) if word >> 63 else word
