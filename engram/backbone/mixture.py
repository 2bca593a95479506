"""`Mixture`: the routed experts of a model, and the config keys that state their number."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from engram.backbone.families import spellings

_KEY = "num_experts"


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The routed experts of a model.

    Attributes:
        experts: Routed experts of a layer.
        active: Of these, those that a token is sent to.
        shared: Experts of a layer that every token is sent to; 0 where the config states none.
        layers: Layers with routed experts.
        expert_params: Parameters of one routed expert, in all layers together.
        router_params: Parameters of the routers for one expert, in all layers together; 0 where
            weights of an unknown family were counted.
        groups: Groups of equal size that experts are in; 1 for no groups. Other numbers of experts
            are routed wrongly, and transformers does not always notice.
        used_groups: Groups that a token is sent to.
        keys: Config keys that state the number of experts, each as a path from the top.
    """

    experts: int
    active: int
    shared: int
    layers: int
    expert_params: int
    router_params: int
    groups: int = 1
    used_groups: int = 1
    keys: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def from_keys(
        cls, keys: Mapping[str, Any], *, layers: int, expert_params: int, router_params: int
    ) -> Self:
        """Read the numbers of experts and groups from a config.

        Args:
            keys: Config keys under their canonical names.
            layers: See the attribute.
            expert_params: See the attribute.
            router_params: See the attribute.
        """
        groups = _count(keys, "n_group", 1)
        return cls(
            experts=keys[_KEY],
            active=keys["num_experts_per_tok"],
            shared=_count(keys, "n_shared_experts", 0),
            layers=layers,
            expert_params=expert_params,
            router_params=router_params,
            groups=groups,
            used_groups=_count(keys, "topk_group", groups),
        )

    @property
    def idle_params(self) -> int:
        """Parameters of the experts that a token is not sent to."""
        return self.expert_params * (self.experts - self.active)

    @property
    def least(self) -> int:
        """The smallest number of experts that a token can be sent to as many of as now."""
        # DeepSeek-V3 scores a group by its best two experts.
        in_group = max(-(-self.active // self.used_groups), 2 if self.groups > 1 else 0)
        return in_group * self.groups

    def stated_in(self, config: Mapping[str, Any], default: str) -> Self:
        """Add the keys of a config that state the number of experts.

        Args:
            config: The raw config.json.
            default: The key of a config that states none.
        """
        text = config.get("text_config")
        text = text if isinstance(text, dict) else {}
        keys: list[tuple[str, ...]] = [("text_config", key) for key in spellings(_KEY, text)]
        keys += [(key,) for key in spellings(_KEY, config)]
        return replace(self, keys=tuple(keys or [(default,)]))

    def settings(self, experts: int) -> dict[str, Any]:
        """Return the keys of the config that change with the number of experts."""
        found: dict[str, Any] = {}
        for *parts, key in self.keys:
            place = found
            for part in parts:
                place = place.setdefault(part, {})
            place[key] = experts
        return found


def _count(keys: Mapping[str, Any], key: str, default: int) -> int:
    """Read a number that families without a closed form may use for something else."""
    value = keys.get(key)
    return value if type(value) is int and value > 0 else default
