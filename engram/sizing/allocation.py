"""The allocation law: splits a sparse parameter budget between experts and memory.

P_sparse = P_tot - P_act; experts get rho of it and the memory the rest (arXiv 2601.07372, section
3). P_tot leaves out the vocabulary embedding and head; tables count whole as inactive.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from engram.arguments import checked
from engram.errors import InputError, UsageError
from engram.units import format_count

SCHEMA = "engram.allocate/1"
# The paper's optimum; `engram size` uses the lower end, which gives the memory more.
BEST_RHO = (Fraction(3, 4), Fraction(4, 5))


@dataclass(frozen=True, kw_only=True)
class Split:
    """A split of the sparse parameters.

    Attributes:
        rho: Share of the sparse parameters that experts keep.
        moe_params: Inactive parameters of experts.
        engram_params: Parameters of tables.
    """

    rho: Fraction
    moe_params: int
    engram_params: int

    def to_dict(self) -> dict[str, Any]:
        """Return the split as JSON shows it, in the paper's names."""
        return {
            "rho": float(self.rho),
            "P_MoE": self.moe_params,
            "P_Engram": self.engram_params,
        }


# Loss at this P_tot by rho, in nats a token: printed numbers, and the rho at which a sentence finds
# about the loss of pure experts again.
_TOTAL = 9_900_000_000
_PURE, _BEST = 1.7248, 1.7109
LOSS_POINTS: tuple[dict[str, Any], ...] = (
    {"rho": 0.4, "loss": _PURE, "kind": "stated as about equal"},
    {"rho": 0.8, "loss": _BEST, "kind": "printed"},
    {"rho": 1.0, "loss": _PURE, "kind": "printed"},
)
# Tables alone: the loss falls by so much for ten times the slots of 1,280 values, read off a plot.
_DECADE, _SLOTS = 0.028, (258_000, 10_000_000)

# Published points, for comparison: printed in the paper, exact (recomputed from printed counts), or
# read off a plot.
KNOWN = (
    {
        "what": "best rho of both sweeps",
        "result": "0.75 to 0.80; about 0.40 still equals pure experts",
        "kind": "printed",
    },
    {
        "what": "sweep at 2e20 FLOPs",
        "result": "P_tot 5.7B, P_act 568M, 106 experts; 46 kept: rho (46-6)/(106-6) = 0.400",
        "kind": "exact",
    },
    {
        "what": "sweep at 6e20 FLOPs",
        "result": "P_tot 9.9B, P_act 993M, 99 experts; 43 kept: rho (43-6)/(99-6) = 0.398",
        "kind": "exact",
    },
    {
        "what": f"loss at P_tot {format_count(_TOTAL)}",
        "result": f"{_PURE} at rho 1, {_BEST} at rho about 0.8",
        "kind": "printed",
    },
    {
        "what": "Engram-27B",
        "result": "55 of 72 experts kept: rho (55-6)/(72-6) = 0.7424, printed 74.3 %",
        "kind": "exact",
    },
    {
        "what": "tables alone, 2.6e5 to 1e7 slots",
        "result": f"loss falls about {_DECADE} for ten times the slots",
        "kind": "plot",
    },
)


def published_curves() -> dict[str, Any]:
    """Return the paper's losses as curves, for a picture.

    Returns:
        By name: ``loss``, its points by rho, and ``total_params``, the P_tot that they are of;
            ``guide``, two half parabolas through them with the vertex at the best, to guide the
            eye; ``best_rho``, the ends of the best ones; ``slots``, the fall of the loss with
            tables alone, in nats from the smallest, read off a plot.
    """
    worst_rho, best_rho, pure_rho = (point["rho"] for point in LOSS_POINTS)
    guide = []
    for percent in range(40, 101, 2):
        rho = percent / 100
        end = worst_rho if rho < best_rho else pure_rho
        part = (rho - best_rho) / (end - best_rho)
        guide.append({"rho": rho, "loss": _BEST + (_PURE - _BEST) * part**2})
    decades = math.log10(_SLOTS[1] / _SLOTS[0])
    return {
        "loss": list(LOSS_POINTS),
        "total_params": _TOTAL,
        "best_rho": list(map(float, BEST_RHO)),
        "guide": guide,
        "slots": [
            {"slots": _SLOTS[0], "loss_change": 0.0, "kind": "plot"},
            {"slots": _SLOTS[1], "loss_change": -_DECADE * decades, "kind": "plot"},
        ],
    }


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


@dataclass(frozen=True, kw_only=True, repr=False)
class Allocation:
    """Result of `allocate`.

    Attributes:
        total_params: P_tot, None where expert counts alone gave rho.
        active_params: P_act, None where expert counts alone gave rho.
        rho: Part of the sparse parameters that experts keep, that of the first split.
        rho_from: Origin of rho: given, computed from expert counts, or the paper's optimum.
        splits: A split for each rho; none without parameters.
        row_width: Columns of a table row, to say how many rows the memory's parameters are.
    """

    total_params: int | None
    active_params: int | None
    rho: Fraction | float | str
    rho_from: Literal["given", "experts", "paper"]
    splits: tuple[Split, ...]
    row_width: int | None

    def __repr__(self) -> str:
        points = [f"rho {float(it.rho):g}: {it.engram_params:,}" for it in self.splits]
        return f"<Allocation: {', '.join(points) or f'rho {float(self.rho):g}'}>"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram allocate --json`` prints."""
        width = self.row_width
        points = [
            {
                **split.to_dict(),
                **({} if width is None else {"table_rows": split.engram_params // width}),
            }
            for split in self.splits
        ]
        total, active = self.total_params, self.active_params
        return {
            "schema": SCHEMA,
            "P_tot": total,
            "P_act": active,
            "P_sparse": None if total is None or active is None else total - active,
            **(points[0] if points else {"rho": float(self.rho), "P_MoE": None, "P_Engram": None}),
            "rho_from": self.rho_from,
            "points": points,
            "known": list(KNOWN),
        }


@checked(row_width=1)
def allocate(
    total: int | None = None,
    active: int | None = None,
    *,
    rho: Fraction | float | str | None = None,
    experts_kept: int | None = None,
    experts_baseline: int | None = None,
    experts_active: int | None = None,
    row_width: int | None = None,
) -> Allocation:
    """Split a mixture of experts' sparse parameters between experts and memory.

    Args:
        total: P_tot: trainable parameters without vocabulary embedding and head.
        active: P_act: those that one token uses.
        rho: Part of the sparse parameters that experts keep, 0 to 1; both ends of the paper's
            optimum, 0.75 and 0.80, when neither it nor expert counts are given.
        experts_kept: Routed experts that are kept; the three counts give rho, too.
        experts_baseline: Routed experts of the pure mixture.
        experts_active: Routed experts that a token uses in both.
        row_width: Columns of a table row, to count the rows as well.

    Returns:
        The splits; `to_dict()` is what ``engram allocate --json`` prints.

    Raises:
        UsageError: rho is given twice, or not enough is given.
        InputError: Counts contradict each other, or rho is outside of 0 to 1.

    Examples:
        >>> import engram
        >>> engram.allocate(9_900_000_000, 993_000_000, rho=0.8).splits[0].engram_params
        1781400000
    """
    counts = (experts_kept, experts_baseline, experts_active)
    whole = [count for count in counts if count is not None]
    if whole and len(whole) < len(counts):
        raise UsageError(
            "rho by experts needs all of --experts-kept, --experts-baseline and --experts-active.",
            "Or give --rho itself.",
        )
    by_experts = rho_from_experts(*whole) if whole else None
    if by_experts is not None and rho is not None:
        raise UsageError("--rho and expert counts exclude each other.", "Give one of them.")
    if (total is None) != (active is None) or (total is None and by_experts is None):
        raise UsageError("Give both --total and --active.", "Expert counts alone give rho.")
    given = by_experts if rho is None else rho
    rhos = BEST_RHO if given is None else (given,)
    return Allocation(
        total_params=total,
        active_params=active,
        rho=rhos[0],
        rho_from="given" if rho is not None else "paper" if by_experts is None else "experts",
        splits=()
        if total is None or active is None
        else tuple(split_params(total, active, value) for value in rhos),
        row_width=row_width,
    )


def split_params(total_params: int, active_params: int, rho: Fraction | float | str) -> Split:
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
    part = read_rho(rho)
    sparse = total_params - active_params
    moe_params = round(part * sparse)
    return Split(rho=part, moe_params=moe_params, engram_params=sparse - moe_params)


def read_rho(rho: Fraction | float | str) -> Fraction:
    """Return rho as an exact number.

    Raises:
        InputError: It is not a number from 0 to 1.
    """
    try:
        part = Fraction(str(rho))
    except (ValueError, ZeroDivisionError):
        part = Fraction(-1)
    if not 0 <= part <= 1:
        raise InputError(
            f"rho must be between 0 and 1, got {rho}.", "The optimum is 0.75 to 0.80.", rho=str(rho)
        )
    return part
