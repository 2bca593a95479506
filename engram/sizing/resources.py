"""Lines of bytes by place, and what a machine has of each thing that they take."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from engram.sizing.run_options import Place
from engram.sizing.weights import Kind, Weights
from engram.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """One line of a byte report.

    Attributes:
        part: Name of the part.
        params: Parameters of weights; None for gradients and optimiser state.
        size_bytes: Bytes over all ranks, each part counted once.
        rank_bytes: Bytes that one rank holds.
        place: Place of the bytes.
        kind: Exactness of the bytes.
        is_table: Whether they belong to tables, as weights, gradients or optimiser state.
    """

    part: str
    params: int | None
    size_bytes: int
    rank_bytes: int
    place: Place
    kind: Kind
    is_table: bool


def rank_bytes(part: Weights, size_bytes: int, ranks: int) -> int:
    """Return one rank's bytes: whole rows of a table, an even part of the base, all of the rest."""
    if part.rows:
        return -(-part.rows // ranks) * (size_bytes // part.rows)
    return -(-size_bytes // ranks) if part.group == "base" else size_bytes


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One thing that a memory takes, and how much of it there is.

    Attributes:
        name: Such as "device memory".
        unit: bytes, parameters, or reads a second.
        used: Amount that is taken.
        capacity: Amount that there is; None if nobody said.
    """

    name: str
    unit: Literal["bytes", "parameters", "reads/s"]
    used: int
    capacity: int | None

    @property
    def fits(self) -> bool | None:
        """Whether there is enough; None if nobody said how much there is."""
        if not self.used:
            return True
        return None if self.capacity is None else self.used <= self.capacity

    @property
    def missing(self) -> int:
        """Amount that there is too little; 0 if it fits, or if nobody said."""
        return 0 if self.capacity is None else max(0, self.used - self.capacity)

    def shown(self, amount: int | None) -> str:
        """Return an amount with its unit, for people."""
        if amount is None:
            return "unknown"
        return format_bytes(amount) if self.unit == "bytes" else f"{amount:,} {self.unit}"


def all_fit(resources: Iterable[Resource]) -> bool | None:
    """Return whether there is enough of all of them; None where that is not known."""
    answers = [resource.fits for resource in resources]
    if False in answers:
        return False
    return None if None in answers else True
