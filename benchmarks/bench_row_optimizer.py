"""Times what a table's training costs with `MemoryOptimizer`, and with torch's optimisers.

A step has 32,768 look-ups in rows of 64 floats, distributed as words are (Zipf), over as many
distinct rows whatever the size of the table. Timed are the optimiser's step, and the backward pass
with it: a dense gradient has to be made, and a sparse one to be summed. All optimisers of a size
take turns. Targets: row-wise Adagrad's step at 10^7 rows within 1.3 times its time at 10^5; at
4 * 10^6 rows 20 times as fast as torch's fused dense Adam; state of 1/64 of the table.

    python benchmarks/bench_row_optimizer.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measured import Ratio, finish, parser_of, times_as_fast
from torch import Tensor, nn

from engram.nn import MultiHeadEmbedding
from engram.training import MemoryOptimizer

LOOK_UPS, WIDTH = 32_768, 64
SIZES = (10**5, 10**6, 4 * 10**6, 10**7)
DENSE_SIZE, RANKS = 4 * 10**6, 10**5
RULES = ("rowwise-adagrad", "rowwise-rmsprop", "sparse-adam", "momentum")


class Timed:
    """An optimiser of one table, and its times in milliseconds: steps, and backward with step."""

    def __init__(self, name: str, table: nn.Module, make: Callable[[nn.Module], object]) -> None:
        self.name, self.table, self.optimizer = name, table, make(table)
        self.times: list[float] = []
        self.with_backward: list[float] = []

    def step(self, ids: Tensor, factors: Tensor) -> None:
        """Make a step of which the optimiser's part is timed."""
        loss = (self.table(ids) * factors).sum()
        begin = time.perf_counter()
        loss.backward()
        start = time.perf_counter()
        self.optimizer.step()
        end = time.perf_counter()
        self.times.append(1e3 * (end - start))
        self.with_backward.append(1e3 * (end - begin))
        self.optimizer.zero_grad()

    def in_rounds(self, times: list[float], rounds: int) -> list[float]:
        """Return the median of every round of steps; the first two steps do not count."""
        count = (len(times) - 2) // rounds
        return [
            statistics.median(times[2 + index * count : 2 + (index + 1) * count])
            for index in range(rounds)
        ]

    @property
    def state_bytes(self) -> int:
        """Bytes of the optimiser's state."""
        return sum(
            value.nbytes
            for state in self.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor) and value.numel() > 1
        )


def main() -> None:
    """Time every optimiser at every size, and compare."""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=7, help="steps of a round")
    given = parser.parse_args()
    steps = 2 + given.rounds * given.steps
    found = {
        (rows, it.name): it
        for rows in ((DENSE_SIZE,) if given.quick else SIZES)
        for it in timed(rows, steps)
    }

    def ratio(
        key: str,
        what: str,
        against: str,
        one: tuple[int, str],
        other: tuple[int, str],
        **promise: Any,
    ) -> Ratio:
        slow, fast = found[one], found[other]
        both = times_as_fast(
            slow.in_rounds(slow.with_backward, given.rounds),
            fast.in_rounds(fast.with_backward, given.rounds),
        )
        return Ratio(
            key,
            what,
            against,
            times_as_fast(
                slow.in_rounds(slow.times, given.rounds), fast.in_rounds(fast.times, given.rounds)
            ),
            **promise,
            note=f"{statistics.median(slow.times):.1f} and {statistics.median(fast.times):.1f} ms; "
            f"with the backward pass {statistics.median(both):.2f} x",
        )

    ours = RULES[0]
    ratios = [
        ratio(
            f"optimizer-{key}",
            f"step of {rule}, {LOOK_UPS:,} look-ups, {DENSE_SIZE:,} rows",
            other,
            (DENSE_SIZE, other),
            (DENSE_SIZE, rule),
            **promise,
        )
        for key, rule, other, promise in (
            ("dense", ours, "torch fused dense Adam", {"at_least": 20}),
            ("sparse", ours, "torch SparseAdam", {}),
            ("lazy", "sparse-adam", "torch SparseAdam", {}),
        )
    ]
    if not given.quick:
        least, most = SIZES[0], SIZES[-1]
        ratios.append(
            ratio(
                "optimizer-rows",
                f"step of {ours}, {LOOK_UPS:,} look-ups, {most:,} rows",
                f"the same at {least:,} rows",
                (most, ours),
                (least, ours),
                at_most=1.3,
            )
        )
    ours_state = found[DENSE_SIZE, ours].state_bytes
    ratios.append(
        Ratio(
            "optimizer-state",
            f"state of {ours}",
            "the bytes of the table",
            [ours_state / (DENSE_SIZE * WIDTH * 4)],
            at_most=1 / 32,
        )
    )
    finish(ratios, given.json)


def timed(rows: int, steps: int) -> list[Timed]:
    """Time the optimisers at one size, in turn; of the largest, those that fit side by side."""
    generator = torch.Generator().manual_seed(0)
    fits = rows <= DENSE_SIZE
    found = [
        Timed(rule, new_table(rows), partial(MemoryOptimizer, table_optimizer=rule))
        for rule in (RULES if fits else RULES[:2])
    ]
    if fits:
        sparse = new_table(rows)
        sparse.embedding.sparse = True
        found.append(Timed("torch SparseAdam", sparse, of_parameters(torch.optim.SparseAdam)))
    if rows == DENSE_SIZE:
        adam = of_parameters(torch.optim.Adam, fused=True)
        found.append(Timed("torch fused dense Adam", new_table(rows), adam))
    for _ in range(steps):
        ids = zipf_ids(rows, generator)[:, None]
        factors = torch.randn(LOOK_UPS, WIDTH, generator=generator)
        for it in found:
            it.step(ids, factors)
    return found


def of_parameters(kind: Callable[..., object], **options: object) -> Callable[[nn.Module], object]:
    """Return a maker of one of torch's optimisers for a module."""
    return lambda module: kind(list(module.parameters()), **options)


def new_table(rows: int) -> MultiHeadEmbedding:
    """Make a table of zeros, which takes no time to draw."""
    table = MultiHeadEmbedding([rows], WIDTH, device="meta").to_empty(device="cpu")
    nn.init.zeros_(table.embedding.weight)
    nn.init.zeros_(table.offsets)
    return table


def zipf_ids(rows: int, generator: torch.Generator) -> Tensor:
    """Draw rows with frequencies of about 1 / rank, of 10^5 ranks scattered over the table."""
    uniform = torch.rand(LOOK_UPS, generator=generator, dtype=torch.float64)
    ranks = (RANKS**uniform).long() - 1
    return ranks * (rows // RANKS) + ranks % (rows // RANKS)


if __name__ == "__main__":
    main()
