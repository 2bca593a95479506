"""`TokenWork`: parameters and FLOPs that a token uses when a memory takes the place of experts."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TokenWork:
    """The parameters that one token uses, before and after the split.

    Attributes:
        base_params: Active parameters of the base as it is.
        router_params: Of these, rows of the routers that go with their experts.
        dense_params: Parameters of the memory outside of its tables.
        rows: Rows of the tables that a token reads.
        row_params: Parameters in these rows; they are read and not multiplied.
        base_flops: Forward FLOPs of the base: 2 for each active parameter, without the embedding's
            look-up and without attention scores, which stay as they are.
    """

    base_params: int
    router_params: int
    dense_params: int
    rows: int
    row_params: int
    base_flops: int

    @property
    def params(self) -> int:
        """Active parameters of the base with fewer experts and the memory."""
        return self.base_params - self.router_params + self.dense_params + self.row_params

    @property
    def more_flops(self) -> int:
        """Forward FLOPs that a token takes more than in the base."""
        return 2 * (self.dense_params - self.router_params)

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters and FLOPs for JSON."""
        return {
            **asdict(self),
            "params": self.params,
            "more_params": self.params - self.base_params,
            "more_flops": self.more_flops,
            "more_flops_share": self.more_flops / self.base_flops,
        }
