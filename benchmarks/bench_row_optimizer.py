"""Times what a table's training costs with `MemoryOptimizer`, and with torch's optimisers.

A step has 32,768 look-ups in rows of 64 floats, distributed as words are (Zipf), over as many
distinct rows whatever the size of the table. Timed are the optimiser's step, and the backward pass
with it: a dense gradient has to be made, and a sparse one to be summed. All optimisers of a size
take turns. Targets: row-wise Adagrad's step at 10^7 rows within 1.3 times its time at 10^5; at
4 * 10^6 rows 20 times as fast as torch's fused dense Adam; state of 1/64 of the table.

    python benchmarks/bench_row_optimizer.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
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
    parser.add_argument("--steps", type=int, default=21)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    given = parser.parse_args()
    print(f"{LOOK_UPS:,} look-ups of {WIDTH} floats, {torch.get_num_threads()} threads")
    print("| step, ms (quartiles) | with backward | state / table | rows | optimiser |")
    print("|---|---|---|---|---|")
    steps: dict[tuple[int, str], float] = {}
    both: dict[tuple[int, str], float] = {}
    for rows in given.sizes:
        for it in timed(rows, given.steps):
            low, median, high = statistics.quantiles(it.times[2:], n=4)
            steps[rows, it.name] = median
            both[rows, it.name] = statistics.median(it.with_backward[2:])
            share = it.state_bytes / (rows * WIDTH * 4)
            times = f"{median:.1f} ({low:.1f} to {high:.1f}) | {both[rows, it.name]:.1f}"
            print(f"| {times} | {share:.3f} | {rows:,} | {it.name} |", flush=True)
    ours, (least, *_, most) = RULES[0], given.sizes
    print(f"\n{steps[most, ours] / steps[least, ours]:.2f}x from {least:,} to {most:,} rows")
    for other in ("torch fused dense Adam", "torch SparseAdam"):
        if (DENSE_SIZE, other) in steps:
            step = steps[DENSE_SIZE, other] / steps[DENSE_SIZE, ours]
            whole = both[DENSE_SIZE, other] / both[DENSE_SIZE, ours]
            print(
                f"{step:.1f}x as fast as {other} at {DENSE_SIZE:,} rows; with backward {whole:.1f}x"
            )


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
