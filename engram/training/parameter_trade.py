"""Makes a new base smaller by what a memory adds, so that the two have the parameters of the base.

Tables are read, not multiplied: at equal parameters a model with a memory does less work a token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from engram.backbone.families import ALIASES, FAMILIES
from engram.backbone.mixture import Mixture
from engram.config.engram_config import EngramConfig
from engram.errors import DoesNotFitError
from engram.sizing.counts import count_params
from engram.sizing.expert_split import keeping

if TYPE_CHECKING:
    from engram.training.new_base import NewBase

_WIDTH = "intermediate_size"


@dataclass(frozen=True, kw_only=True)
class EqualParams:
    """A base that pays for its memory.

    Attributes:
        spec: The smaller base.
        key: Key of its config.json that changed: the feed-forward width, or the number of experts.
        before: Its value in the base alone.
        after: Its value beside the memory.
        base_params: Parameters of the base alone.
        kept_params: Parameters of the smaller base.
        memory_params: Parameters of the memory: tables and dense parts.
    """

    spec: NewBase
    key: str
    before: int
    after: int
    base_params: int
    kept_params: int
    memory_params: int

    @property
    def missing_params(self) -> int:
        """Parameters by which base and memory are below the base alone: less than one step."""
        return self.base_params - self.kept_params - self.memory_params

    def __str__(self) -> str:
        """Return the trade in one sentence."""
        return (
            f"{self.key} {self.before} -> {self.after}: base and memory have "
            f"{self.kept_params + self.memory_params:,} parameters, {self.missing_params:,} below "
            f"the {self.base_params:,} of the base alone."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the trade for JSON."""
        found = {name: value for name, value in vars(self).items() if name != "spec"}
        return {**found, "missing_params": self.missing_params}


def equal_params(spec: NewBase, memory: EngramConfig) -> EqualParams:
    """Make a base smaller, so that with a memory it has no more parameters than without.

    A mixture keeps fewer routed experts, another base has a narrower feed-forward part; the
    smallest number of them goes that pays for the memory.

    Args:
        spec: The base.
        memory: The memory that is to be attached to it.

    Returns:
        The smaller base, and the exact counts.

    Raises:
        LayoutError: The parameters of the base's family are not known in closed form.
        DoesNotFitError: The memory has more parameters than can go.
    """
    base, wanted = spec.backbone, count_params(memory).total_params
    mixture = base.mixture
    if mixture is not None:
        key, before, after = _experts(mixture, wanted)
        settings = mixture.settings(after)
    else:
        key, before, after = _width(spec, wanted)
        settings = {key: after}
    smaller = spec.with_settings(settings)
    trade = EqualParams(
        spec=smaller,
        key=key,
        before=before,
        after=after,
        base_params=base.params,
        kept_params=smaller.backbone.params,
        memory_params=wanted,
    )
    return replace(trade, spec=replace(smaller, note=str(trade)))


def _experts(mixture: Mixture, wanted: int) -> tuple[str, int, int]:
    """Return the key of the number of experts, that number, and what is left of it."""
    one = mixture.expert_params + mixture.router_params
    groups = mixture.groups
    after = (mixture.experts - ceil(wanted / one)) // groups * groups
    if after < mixture.least:
        raise _too_large(wanted, one * (mixture.experts - mixture.least), "experts")
    keeping(mixture, after)  # refuses what its groups cannot hold
    return mixture.keys[0][-1], mixture.experts, after


def _width(spec: NewBase, wanted: int) -> tuple[str, int, int]:
    """Return the key of the feed-forward width, that width, and what is left of it."""
    spellings = (_WIDTH, *ALIASES[_WIDTH])
    default = FAMILIES[spec.model_type].defaults[_WIDTH]
    stated = [name for name in spellings if spec.settings.get(name) is not None]
    # A family without a default width takes four times its hidden size, under its own name.
    key = stated[0] if stated else spellings[0] if default is not None else spellings[1]
    before = spec.settings[key] if stated else default or 4 * spec.backbone.hidden_size
    one = spec.backbone.params - spec.with_settings({key: before - 1}).backbone.params
    after = before - ceil(wanted / one)
    if after < 1:
        raise _too_large(wanted, one * (before - 1), "columns of the feed-forward part")
    return key, before, after


def _too_large(wanted: int, most: int, what: str) -> DoesNotFitError:
    return DoesNotFitError(
        f"The memory has {wanted:,} parameters; the {what} that can go have {most:,}.",
        "Make the memory smaller, or the base larger.",
        memory_params=wanted,
        most_params=most,
    )
