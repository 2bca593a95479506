"""Times a step of `MemoryOptimizer` over tables of several sizes, against torch's optimisers.

A step has 32,768 look-ups in rows of 64 floats, as many of them repeated as in text (Zipf). All
optimisers of a size are timed in turn, and the medians are compared. Targets: row-wise Adagrad at
10^7 rows within 1.3 times its time at 10^5; at 4 * 10^6 rows 20 times as fast as torch's fused
dense Adam; state of 1/64 of the table.

    python benchmarks/bench_row_optimizer.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from engram.nn import MultiHeadEmbedding
from engram.training import MemoryOptimizer

LOOK_UPS, WIDTH = 32_768, 64
SIZES = (10**5, 10**6, 4 * 10**6, 10**7)
DENSE_SIZE = 4 * 10**6
RULES = ("rowwise-adagrad", "rowwise-rmsprop", "sparse-adam", "momentum")


class Timed:
    """An optimiser of one table, and the times of its steps in milliseconds."""

    def __init__(self, name: str, table: nn.Module, make: Callable[[nn.Module], object]) -> None:
        self.name, self.table, self.optimizer = name, table, make(table)
        self.times: list[float] = []

    def step(self, ids: Tensor, factors: Tensor) -> None:
        """Make a step of which the optimiser's part is timed."""
        (self.table(ids) * factors).sum().backward()
        start = time.perf_counter()
        self.optimizer.step()
        self.times.append(1e3 * (time.perf_counter() - start))
        self.optimizer.zero_grad()

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
    """Time every optimiser at every size, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    given = parser.parse_args()
    print(f"{LOOK_UPS:,} look-ups of {WIDTH} floats, {torch.get_num_threads()} threads")
    print("| ms, median | quartiles | state / table | rows | optimiser |\n|---|---|---|---|---|")
    medians: dict[tuple[int, str], float] = {}
    for rows in given.sizes:
        for it in timed(rows, given.steps):
            low, median, high = statistics.quantiles(it.times[2:], n=4)
            medians[rows, it.name] = median
            share = it.state_bytes / (rows * WIDTH * 4)
            print(
                f"| {median:.1f} | {low:.1f} to {high:.1f} | {share:.3f} | {rows:,} | {it.name} |"
            )
    ours, (least, *_, most) = RULES[0], given.sizes
    print(f"\n{medians[most, ours] / medians[least, ours]:.2f}x from {least:,} to {most:,} rows")
    if DENSE_SIZE in given.sizes:
        for other in ("torch fused dense Adam", "torch SparseAdam"):
            ratio = medians[DENSE_SIZE, other] / medians[DENSE_SIZE, ours]
            print(f"{ratio:.1f}x as fast as {other} at {DENSE_SIZE:,} rows")


def timed(rows: int, steps: int) -> list[Timed]:
    """Time the optimisers at one size, in turn."""
    generator = torch.Generator().manual_seed(0)
    found = [
        Timed(
            rule,
            new_table(rows),
            lambda table, rule=rule: MemoryOptimizer(table, table_optimizer=rule, max_grad_norm=0),
        )
        for rule in RULES
    ]
    sparse = new_table(rows)
    sparse.embedding.sparse = True
    found.append(
        Timed("torch SparseAdam", sparse, lambda it: torch.optim.SparseAdam(list(it.parameters())))
    )
    if rows == DENSE_SIZE:
        found.append(
            Timed(
                "torch fused dense Adam",
                new_table(rows),
                lambda it: torch.optim.Adam(it.parameters(), fused=True),
            )
        )
    for _ in range(steps):
        ids = zipf_ids(rows, generator)[:, None]
        factors = torch.randn(LOOK_UPS, WIDTH, generator=generator)
        for it in found:
            it.step(ids, factors)
    return found


def new_table(rows: int) -> MultiHeadEmbedding:
    """Make a table of zeros, which takes no time to draw."""
    table = MultiHeadEmbedding([rows], WIDTH, device="meta").to_empty(device="cpu")
    nn.init.zeros_(table.embedding.weight)
    nn.init.zeros_(table.offsets)
    return table


def zipf_ids(rows: int, generator: torch.Generator) -> Tensor:
    """Draw rows with frequencies of about 1 / rank, scattered over the table."""
    uniform = torch.rand(LOOK_UPS, generator=generator, dtype=torch.float64)
    ranks = (rows**uniform).long() - 1
    return ranks * 2_654_435_761 % rows


if __name__ == "__main__":
    main()
