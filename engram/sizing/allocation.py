"""The allocation law: splits a sparse parameter budget between experts and memory.

P_sparse = P_tot - P_act; experts get rho of it and the memory the rest (arXiv 2601.07372, section
3). P_tot leaves out the vocabulary embedding and head; tables count whole as inactive.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from engram.errors import InputError

# The paper's optimum; `engram size` uses the lower end, which gives the memory more.
BEST_RHO = (Fraction(3, 4), Fraction(4, 5))


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """A split of the sparse parameters.

    Attributes:
        rho: Share of the sparse parameters that experts keep.
        moe_params: Inactive parameters of experts.
        engram_params: Parameters of tables.
    """

    rho: Fraction
    moe_params: int
    engram_params: int


@dataclass(frozen=True, kw_only=True)
class Known:
    """A published point, for comparison.

    Attributes:
        what: The experiment.
        result: Its result.
        kind: printed in the paper, exact (recomputed from printed counts), or read off a plot.
    """

    what: str
    result: str
    kind: Literal["printed", "exact", "plot"]


KNOWN = (
    Known(
        what="best rho of both sweeps",
        result="0.75 to 0.80; about 0.40 still equals pure experts",
        kind="printed",
    ),
    Known(
        what="sweep at 2e20 FLOPs",
        result="P_tot 5.7B, P_act 568M, 106 experts; 46 kept: rho (46-6)/(106-6) = 0.400",
        kind="exact",
    ),
    Known(
        what="sweep at 6e20 FLOPs",
        result="P_tot 9.9B, P_act 993M, 99 experts; 43 kept: rho (43-6)/(99-6) = 0.398",
        kind="exact",
    ),
    Known(
        what="loss at P_tot 9.9B",
        result="1.7248 at rho 1, 1.7109 at rho about 0.8",
        kind="printed",
    ),
    Known(
        what="Engram-27B",
        result="55 of 72 experts kept: rho (55-6)/(72-6) = 0.7424, printed 74.3 %",
        kind="exact",
    ),
    Known(
        what="tables alone, 2.6e5 to 1e7 slots",
        result="loss falls about 0.028 for ten times the slots",
        kind="plot",
    ),
)


def rho_from_experts(kept: int, baseline: int, active: int) -> Fraction:
    """Return rho of a model that replaces routed experts by a memory.

    Args:
        kept: Routed experts that are left.
        baseline: Routed experts of the model without memory.
        active: Routed experts that a token uses in both.

    Returns:
        (kept - active) / (baseline - active), exactly.

    Raises:
        InputError: The counts contradict each other.
    """
    if not 0 <= active <= kept <= baseline or active == baseline:
        raise InputError(
            f"{kept} experts kept of {baseline} with {active} active: kept must be between active "
            "and baseline.",
            "Count routed experts, without shared ones.",
            kept=kept,
            baseline=baseline,
            active=active,
        )
    return Fraction(kept - active, baseline - active)


def allocate(total_params: int, active_params: int, rho: Fraction | float | str) -> Allocation:
    """Split the sparse parameters.

    Args:
        total_params: P_tot: trainable parameters without vocabulary embedding and head.
        active_params: P_act: those that one token uses.
        rho: Share of the sparse parameters that experts keep, 0 to 1.

    Returns:
        Whole parameters that add up to P_tot - P_act.

    Raises:
        InputError: There are more active than total parameters, or rho is not in 0..1.
    """
    if not 0 < active_params < total_params:
        raise InputError(
            f"{active_params:,} active of {total_params:,} parameters: active must be above 0 and "
            "below the total.",
            "A dense model has no sparse parameters to split; size its memory with engram size.",
            total_params=total_params,
            active_params=active_params,
        )
    try:
        part = Fraction(str(rho))
    except (ValueError, ZeroDivisionError):
        part = Fraction(-1)
    if not 0 <= part <= 1:
        raise InputError(
            f"rho must be between 0 and 1, got {rho}.", "The optimum is 0.75 to 0.80.", rho=str(rho)
        )
    sparse = total_params - active_params
    moe_params = round(part * sparse)
    return Allocation(rho=part, moe_params=moe_params, engram_params=sparse - moe_params)
