"""The allocation law, against the paper's numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest

from engram.errors import InputError
from engram.sizing.allocation import allocate, rho_from_experts


@pytest.mark.parametrize(
    ("kept", "baseline", "active", "rho"),
    [(46, 106, 6, 0.400), (43, 99, 6, 0.398), (55, 72, 6, 0.7424)],
)
def test_rho_by_experts_as_published(kept, baseline, active, rho):
    found = rho_from_experts(kept, baseline, active)
    assert found == Fraction(kept - active, baseline - active)
    assert round(float(found), 4 if rho > 0.5 else 3) == rho


def test_split_adds_up():
    split = allocate(9_900_000_001, 993_000_000, "0.75")
    assert split.rho == Fraction(3, 4)
    assert split.moe_params + split.engram_params == 9_900_000_001 - 993_000_000
    assert split.engram_params == 2_226_750_000
    assert allocate(100, 10, 1).engram_params == 0
    assert allocate(100, 10, 0).moe_params == 0


@pytest.mark.parametrize(("total", "active"), [(10, 10), (10, 11), (10, 0), (-5, -6)])
def test_models_without_sparse_parameters(total, active):
    with pytest.raises(InputError):
        allocate(total, active, 0.75)


@pytest.mark.parametrize("rho", ["1.1", "-0.1", "nan", "x", "1/0"])
def test_rho_out_of_range(rho):
    with pytest.raises(InputError, match="rho"):
        allocate(10, 1, rho)


@pytest.mark.parametrize("counts", [(5, 72, 6), (73, 72, 6), (6, 6, 6), (1, 2, -1)])
def test_experts_that_contradict(counts):
    with pytest.raises(InputError):
        rho_from_experts(*counts)
