"""The planner: the largest memory that a machine holds, where it lies, and what limits it.

`memory_use` judges every size that is tried, and it is what `report` shows of the config that comes
out, so the two agree.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from engram.backbone import Backbone
from engram.config.config_rules import MAX_ROW_ID
from engram.config.engram_config import EngramConfig
from engram.config.table_dtype import INFERENCE_DTYPES
from engram.sizing.counts import MemoryCount, count_params
from engram.sizing.placement import MemoryUse, Resource, memory_use
from engram.sizing.run_options import PLACES, Optimizer, Place, RunOptions
from engram.sizing.shape import MIN_ROWS_PER_HEAD
from engram.sizing.weights import weigh

# dtypes and optimisers that alternatives are tried with.
_DTYPES = ("bfloat16", "fp8")
_OPTIMIZERS: tuple[Optimizer, ...] = ("rowwise-adagrad", "sparse-adam", "adam")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a memory may take at most, whatever machine there is.

    Attributes:
        params: Parameters of tables and modules; None for any number.
        memory_bytes: Bytes of tables and modules; None for any number.
    """

    params: int | None = None
    memory_bytes: int | None = None

    def resources(self, counts: MemoryCount, use: MemoryUse) -> Iterator[Resource]:
        """Compare a memory with the limits that there are."""
        if self.params is not None:
            yield Resource(
                name="budget",
                unit="parameters",
                used=counts.total_params,
                capacity=self.params,
            )
        if self.memory_bytes is not None:
            size = sum(part.size_bytes for part in use.weights if part.group != "base")
            yield Resource(name="--memory", unit="bytes", used=size, capacity=self.memory_bytes)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A memory of a size, on a machine.

    Attributes:
        counts: Its parameters, and its config.
        use: Its bytes, placed.
        resources: What it takes of the machine and of the limits.
    """

    counts: MemoryCount
    use: MemoryUse
    resources: tuple[Resource, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing is known to be too small."""
        return not any(resource.missing for resource in self.resources)


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """The largest memory with another place, dtype or optimiser.

    Attributes:
        tables: Place of the tables.
        dtype: dtype of the tables.
        optimizer: Optimiser; None at inference.
        rows_per_order: Rows per n-gram order; 0 if not even the smallest table fits.
        total_params: Parameters of the memory; 0 if none fits.
        binding: What limits it.
    """

    tables: Place
    dtype: str
    optimizer: Optimizer | None
    rows_per_order: int
    total_params: int
    binding: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The largest memory that limits and machine allow.

    Attributes:
        rows_per_order: The largest number of rows per n-gram order, summed over its heads.
        trial: The memory of that size.
        binding: Names of what one more row of every head would exceed.
        doubling: Names of what twice the rows would exceed, and by how much.
    """

    rows_per_order: int
    trial: Trial
    binding: tuple[str, ...]
    doubling: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Finds the largest tables of a memory of a shape.

    Args:
        shape: The memory; its table size is ignored.
        backbone: Its base model, if known.
        options: The use, and the machine.
        limits: What the memory may take at most.
    """

    shape: EngramConfig
    backbone: Backbone | None
    options: RunOptions
    limits: Limits

    def largest(self) -> Plan | None:
        """Return the largest memory that fits; None if not even the smallest table does.

        With tables "auto" it is the place with the most rows; of equals, the fastest.
        """
        plans = [plan for place in self.homes() if (plan := self._at(place)) is not None]
        return max(plans, key=lambda plan: plan.rows_per_order, default=None)

    def smallest(self) -> Trial:
        """Return the memory with the smallest tables there are, in the first place for them."""
        return self._in(self.homes()[0]).try_size(MIN_ROWS_PER_HEAD)

    def homes(self) -> list[Place]:
        """Return the places that tables may be in: as asked, or all whose size is known."""
        options = self.options
        if options.tables != "auto":
            return [options.tables]
        there = {"gpu": options.device_memory, "cpu": options.host_memory, "disk": options.disk}
        homes = [place for place in PLACES if there[place] is not None]
        if options.mode == "training" and "disk" in homes:
            homes.remove("disk")
        return homes or ["gpu" if options.tp else "cpu"]

    def try_size(self, rows_per_head: int) -> Trial:
        """Count and place a memory of a size, with its real primes."""
        rows = rows_per_head * self.shape.n_head_per_ngram
        sized = replace(self.shape, engram_table_size=[rows] * len(self.shape.orders))
        return self.judge(count_params(sized))

    def alternatives(self, plan: Plan) -> list[Alternative]:
        """Return the largest memories with one thing changed: place, dtype or optimiser."""
        training = self.options.mode == "training"
        dtype = weigh(plan.trial.counts, self.backbone, self.options.dtype)[0].name
        place, optimizer = plan.trial.use.tables, self.options.optimizer
        changes = [(home, dtype, optimizer) for home in self.homes() if home != place]
        changes += [
            (place, other, optimizer)
            for other in _DTYPES
            if other != dtype and not (training and other in INFERENCE_DTYPES)
        ]
        if training:
            changes += [(place, dtype, other) for other in _OPTIMIZERS if other != optimizer]
        found = []
        for home, other, state in changes:
            options = replace(self.options, tables=home, dtype=other, optimizer=state)
            best = replace(self, options=options).largest()
            found.append(
                Alternative(
                    tables=home,
                    dtype=other,
                    optimizer=state if training else None,
                    rows_per_order=best.rows_per_order if best else 0,
                    total_params=best.trial.counts.total_params if best else 0,
                    binding=" and ".join(best.binding) if best else "nothing fits",
                )
            )
        return found

    def judge(self, counts: MemoryCount, tables: Place | None = None) -> Trial:
        """Place a memory, its tables where asked or where the options say."""
        options = self.options if tables is None else replace(self.options, tables=tables)
        weights = weigh(counts, self.backbone, options.dtype)[1]
        use = memory_use(weights, options, backbone=self.backbone, config=counts.config)
        found = [*self.limits.resources(counts, use), *use.resources.values()]
        return Trial(counts=counts, use=use, resources=tuple(found))

    def _in(self, place: Place) -> Planner:
        return replace(self, options=replace(self.options, tables=place))

    def _at(self, place: Place) -> Plan | None:
        """Return the largest memory with its tables in a place."""
        here = self._in(place)
        if not here.try_size(MIN_ROWS_PER_HEAD).fits:
            return None
        nominal = _largest(lambda rows: here._nominal(rows).fits, MIN_ROWS_PER_HEAD)
        # No head is smaller than its nominal size, so no more rows than the nominal ones fit.
        rows = _largest(lambda rows: here.try_size(rows).fits, MIN_ROWS_PER_HEAD, near=nominal)
        best, more = here.try_size(rows), here.try_size(rows + 1)
        heads = self.shape.n_head_per_ngram
        return Plan(
            # The split over heads drops rows per order beyond a multiple of the heads.
            rows_per_order=rows * heads + heads - 1,
            trial=best,
            binding=tuple(it.name for it in more.resources if it.missing),
            doubling={
                it.name: it.missing for it in here._nominal(2 * rows).resources if it.missing
            },
        )

    def _nominal(self, rows_per_head: int) -> Trial:
        """Place a memory whose heads have as many rows as was asked, not the prime above it."""
        rows = rows_per_head * self.shape.n_columns
        base = self._smallest_counts
        layers = tuple(
            replace(layer, rows=rows, table_params=rows * self.shape.row_width)
            for layer in base.layers
        )
        return self.judge(replace(base, layers=layers))

    @property
    def _smallest_counts(self) -> MemoryCount:
        rows = MIN_ROWS_PER_HEAD * self.shape.n_head_per_ngram
        return count_params(replace(self.shape, engram_table_size=[rows] * len(self.shape.orders)))


def _largest(fits: Callable[[int], bool], least: int, near: int | None = None) -> int:
    """Return the largest number that fits, of which the least is known to.

    Args:
        fits: Whether a number does; none above one that does not.
        least: The number that does.
        near: No larger number fits, and the answer is close; None to start at the least.
    """
    if near is None:
        low = least
        while low < MAX_ROW_ID and fits(2 * low):
            low *= 2
        return low - 1 + bisect_right(range(low, 2 * low), False, key=lambda n: not fits(n))
    step, low = 1, near
    while not fits(low):
        near, low, step = low - 1, max(least, low - step), 2 * step
    return low - 1 + bisect_right(range(low, near + 1), False, key=lambda n: not fits(n))
