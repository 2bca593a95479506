"""The planner: the largest memory that a machine holds, where it lies, and what limits it.

`memory_use` judges every size that is tried, and it is what `report` shows of the config that comes
out, so the two agree.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from engram.backbone import Backbone
from engram.config.config_rules import MAX_ROW_ID
from engram.config.engram_config import EngramConfig
from engram.config.table_dtype import INFERENCE_DTYPES
from engram.errors import DoesNotFitError, UsageError
from engram.sizing.budget import seed_rule_k
from engram.sizing.counts import MemoryCount, count_params
from engram.sizing.optimizers import ROW_STATES, Optimizer
from engram.sizing.placement import MemoryUse, memory_use
from engram.sizing.resources import Resource, all_fit
from engram.sizing.run_options import Place, RunOptions
from engram.sizing.shape import MIN_ROWS_PER_HEAD
from engram.sizing.weights import total_of, weigh
from engram.units import format_bytes, plural

MEMORY_BYTES = "bytes of the memory"
# The options that state the size of a place.
_SIZE_OPTIONS: dict[Place, str] = {
    "gpu": "--device-memory",
    "cpu": "--host-memory",
    "disk": "--disk",
}
# dtypes and optimisers that alternatives are tried with.
_DTYPES = ("bfloat16", "fp8")
_OPTIMIZERS: tuple[Optimizer, ...] = ("rowwise-adagrad", "sparse-adam", "adam")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a memory may take, whatever machine there is.

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
            yield Resource(
                name=MEMORY_BYTES,
                unit="bytes",
                used=total_of(use.weights)[1],
                capacity=self.memory_bytes,
            )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A memory of a size, on a machine.

    Attributes:
        counts: Its parameters, and its config.
        use: Its bytes, placed.
        resources: Amounts that it takes of the limits, and of the machine if anything of it is
            known.
    """

    counts: MemoryCount
    use: MemoryUse
    resources: tuple[Resource, ...]

    @property
    def fits(self) -> bool | None:
        """Whether there is enough of all that it takes; None where that is not known."""
        return all_fit(self.resources) if self.resources else None

    @property
    def lacks(self) -> dict[str, Resource]:
        """Resources that are known to be too small, by name."""
        return {resource.name: resource for resource in self.resources if resource.missing}


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """The largest memory with another place, dtype or optimiser.

    Attributes:
        tables: Place of the tables.
        dtype: dtype of the tables.
        optimizer: Optimiser; None at inference.
        rows_per_order: Rows per n-gram order; 0 if not even the smallest table fits.
        total_params: Parameters of the memory; 0 if none fits.
        binding: Names of what limits it; empty if not even the smallest table fits.
    """

    tables: Place
    dtype: str
    optimizer: Optimizer | None
    rows_per_order: int
    total_params: int
    binding: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The largest memory that limits and machine allow.

    Attributes:
        rows_per_order: The largest number of rows per n-gram order, summed over its heads.
        trial: The memory of that size.
        binding: Names of what one more row of every head would exceed.
        doubling: Resources that twice the rows would exceed, by name.
    """

    rows_per_order: int
    trial: Trial
    binding: tuple[str, ...]
    doubling: dict[str, Resource]


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Finds the largest tables of a memory of a shape.

    Args:
        shape: The memory; its table size is ignored.
        backbone: Its base model, if known.
        options: The use, and the machine.
        limits: The most that the memory may take.
    """

    shape: EngramConfig
    backbone: Backbone | None
    options: RunOptions
    limits: Limits

    def largest(self) -> Plan:
        """Return the largest memory that fits.

        With tables "auto" it is the place with the most rows, of those that are known to fit; of
        equals, the fastest.

        Raises:
            DoesNotFitError: Not even the smallest table fits anywhere.
            UsageError: Tables may be in a place of unknown size, and nothing else limits them.
        """
        self._demand_limit()
        plans = [plan for plan in self._plans.values() if plan is not None]
        if not plans:
            raise self.refusal(self._in(self.options.homes[0]).try_size(MIN_ROWS_PER_HEAD))
        return max(plans, key=lambda plan: (plan.trial.fits is True, plan.rows_per_order))

    def refusal(self, smallest: Trial, hint: str = "") -> DoesNotFitError:
        """Make the error for limits or a machine that hold no memory of the shape.

        Args:
            smallest: The smallest memory that would do.
            hint: Another way out than a smaller shape.
        """
        counts, params = smallest.counts, self.limits.params
        rows = counts.config.engram_table_size[0]
        _, size_bytes = total_of(smallest.use.weights)
        lacks = [
            f"{it.name} of {it.shown(it.capacity)} lacks {it.shown(it.missing)}"
            for it in smallest.lacks.values()
        ]
        return DoesNotFitError(
            f"No memory fits. The smallest has {plural(rows, 'row')} per n-gram order and "
            f"{counts.total_params:,} parameters ({format_bytes(size_bytes)}), of them "
            f"{counts.dense_params:,} outside of the tables. Too small: {'; '.join(lacks)}.",
            hint or self._advice(smallest),
            budget_params=params,
            smallest_budget_params=counts.total_params,
            smallest_budget_bytes=size_bytes,
            dense_params=counts.dense_params,
            k=0,
            seed_rule_k=None if params is None else seed_rule_k(self.shape, params),
            missing={name: it.missing for name, it in smallest.lacks.items()},
        )

    def _demand_limit(self) -> None:
        there = self.options.sizes_of_places
        endless = [place for place in self.options.homes if there[place] is None]
        if endless and self.limits == Limits():
            raise UsageError(
                f"Nothing limits tables on the {endless[0]}: its size is not given.",
                f"Give {_SIZE_OPTIONS[endless[0]]}, or a budget such as --share 20%.",
            )

    def _advice(self, smallest: Trial) -> str:
        if set(smallest.lacks) == {"disk reads"}:
            return "Fewer layers, --heads or --tokens-per-second need fewer reads a second."
        use, options = smallest.use, self.options
        computes: Place = "gpu" if options.tp else "cpu"
        base = sum(row.rank_bytes for row in use.rows if row.part == "base")
        there = options.sizes_of_places[computes]
        if there is not None and base > there:
            gpus = "More --gpus share it; a" if options.tp else "A"
            return f"The base alone takes {format_bytes(base)}. {gpus} quantised one takes less."
        advice = ["Fewer layers, or a smaller width per order, cost less."]
        if self.options.has_machine and self.backbone is not None:
            if self.options.mode == "training" and self.options.train == "all":
                advice.append("--train memory leaves the base frozen.")
            advice.append("A shorter --context and a smaller --batch need less beside the weights.")
        return " ".join(advice)

    def try_size(self, rows_per_head: int) -> Trial:
        """Count and place a memory of a size, with its real primes."""
        rows = rows_per_head * self.shape.n_head_per_ngram
        sized = replace(self.shape, engram_table_size=[rows] * len(self.shape.orders))
        return self.judge(count_params(sized))

    def alternatives(self, plan: Plan) -> tuple[Alternative, ...]:
        """Return the largest memories with one thing changed: place, dtype or optimiser."""
        training = self.options.mode == "training"
        dtype = weigh(plan.trial.counts, self.backbone, self.options.dtype)[0].name
        place, optimizer = plan.trial.use.tables, self.options.optimizer
        changes = [
            (home, dtype, optimizer)
            for home in replace(self.options, tables="auto").homes
            if home != place
        ]
        changes += [
            (place, other, optimizer)
            for other in _DTYPES
            if other != dtype and not (training and other in INFERENCE_DTYPES)
        ]
        if training:
            changes += [
                (place, dtype, other)
                for other in _OPTIMIZERS
                if other != optimizer and (place != "disk" or other in ROW_STATES)
            ]
        found = []
        for home, other, state in changes:
            if (other, state) == (dtype, optimizer) and home in self._plans:
                best = self._plans[home]
            else:
                options = replace(self.options, tables=home, dtype=other, optimizer=state)
                best = replace(self, options=options)._at(home)
            found.append(
                Alternative(
                    tables=home,
                    dtype=other,
                    optimizer=state if training else None,
                    rows_per_order=best.rows_per_order if best else 0,
                    total_params=best.trial.counts.total_params if best else 0,
                    binding=best.binding if best else (),
                )
            )
        return tuple(found)

    def judge(self, counts: MemoryCount) -> Trial:
        """Place a memory as the options say, and compare it with limits and machine."""
        weights = weigh(counts, self.backbone, self.options.dtype)[1]
        use = memory_use(weights, self.options, backbone=self.backbone, config=counts.config)
        machine = use.resources.values() if self.options.has_machine else ()
        found = (*self.limits.resources(counts, use), *machine)
        return Trial(counts=counts, use=use, resources=found)

    def _in(self, place: Place) -> Self:
        return replace(self, options=replace(self.options, tables=place))

    @cached_property
    def _plans(self) -> dict[Place, Plan | None]:
        """The largest memory in each place that tables may be in; None where none fits."""
        return {place: self._at(place) for place in self.options.homes}

    def _at(self, place: Place) -> Plan | None:
        """Return the largest memory with its tables in a place."""
        here = self._in(place)
        if here.try_size(MIN_ROWS_PER_HEAD).lacks:
            return None
        nominal = _largest(lambda rows: not here._nominal(rows).lacks, MIN_ROWS_PER_HEAD)
        # No head is smaller than its nominal size, so no more rows than the nominal ones fit.
        rows = _largest(lambda rows: not here.try_size(rows).lacks, MIN_ROWS_PER_HEAD, near=nominal)
        best, more = here.try_size(rows), here.try_size(rows + 1)
        heads = self.shape.n_head_per_ngram
        return Plan(
            # The split over heads drops rows per order beyond a multiple of the heads.
            rows_per_order=rows * heads + heads - 1,
            trial=best,
            binding=tuple(more.lacks),
            doubling=here.try_size(2 * rows).lacks,
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

    @cached_property
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
