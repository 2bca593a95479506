"""`ExpertSplit`: a split of sparse parameters that a whole number of routed experts realises."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from engram.backbone.mixture import Mixture
from engram.errors import InputError
from engram.sizing.allocation import Split, rho_from_experts

# rho from pure experts down to the value that the paper finds equal to them.
CURVE = tuple(Fraction(percent, 100) for percent in range(100, 39, -5))


@dataclass(frozen=True, kw_only=True)
class ExpertSplit:
    """A split that whole experts realise.

    Attributes:
        wanted_rho: The rho that was asked for; None where the experts were.
        experts: Routed experts that each layer keeps.
        split: Its rho, and the inactive parameters that experts and tables have by the law.
        freed_params: Parameters that the base loses: experts and their rows of the routers.
    """

    wanted_rho: Fraction | None
    experts: int
    split: Split
    freed_params: int

    def to_dict(self) -> dict[str, Any]:
        """Return the split for JSON."""
        return {
            **self.split.to_dict(),
            "wanted_rho": None if self.wanted_rho is None else float(self.wanted_rho),
            "experts_kept": self.experts,
            "freed_params": self.freed_params,
        }


def at_rho(mixture: Mixture, rho: Fraction) -> ExpertSplit:
    """Return the split nearest to a rho; of two, the one with fewer experts.

    Engram-27B keeps 55 of 72 experts, where rho 0.75 would be 55.5.

    Args:
        mixture: The routed experts, of which some can go.
        rho: Part of the sparse parameters that experts keep, 0 to 1.
    """
    wanted = mixture.active + rho * (mixture.experts - mixture.active)
    groups = mixture.groups
    experts = max(mixture.least, ceil(wanted / groups - Fraction(1, 2)) * groups)
    return _split(mixture, experts, rho)


def keeping(mixture: Mixture, experts: int) -> ExpertSplit:
    """Return the split that keeps a number of experts.

    Raises:
        InputError: A token cannot be sent to them as it is now, there are fewer, or groups of one
            size cannot hold them.
    """
    if experts % mixture.groups or not mixture.least <= experts <= mixture.experts:
        groups = f", a multiple of {mixture.groups} groups" if mixture.groups > 1 else ""
        raise InputError(
            f"Experts that are kept must be {mixture.least} to {mixture.experts}{groups}, got "
            f"{experts}.",
            "Count routed experts, without shared ones.",
            kept=experts,
            baseline=mixture.experts,
            active=mixture.active,
        )
    return _split(mixture, experts, None)


def _split(mixture: Mixture, experts: int, wanted: Fraction | None) -> ExpertSplit:
    gone = mixture.experts - experts
    return ExpertSplit(
        wanted_rho=wanted,
        experts=experts,
        split=Split(
            rho=rho_from_experts(experts, mixture.experts, mixture.active),
            moe_params=mixture.expert_params * (experts - mixture.active),
            engram_params=mixture.expert_params * gone,
        ),
        freed_params=(mixture.expert_params + mixture.router_params) * gone,
    )
