"""`RowMovement`: distance that the rows of trained tables moved; and the rows that were touched."""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor

from engram.storage.files import atomic_write
from engram.training.processes import sum_over_processes
from engram.training.tensor_files import read_tensors
from engram.training.trained_table import TrainedTable

# Rows of each table that are watched.
_SAMPLE = 4096
_BLOCK_ROWS = 2**16


class RowMovement:
    """The rows of tables before training, a sample of them; the methods are collectives.

    Args:
        tables: The tables, before their first step, or of a run that goes on.
        seed: Seed of the sample, which is the same for any number of processes.
        file: Place of the sample for runs that go on; None to keep it in memory alone.

    Attributes:
        start_rms: Root mean square of the values before; None without tables.
    """

    def __init__(self, tables: Sequence[TrainedTable], seed: int, file: Path | None = None) -> None:
        self._tables = tables
        self._ids, bounds = [], []
        for number, table in enumerate(tables):
            generator = torch.Generator().manual_seed(seed + number)
            ids = torch.randint(table.total_rows, (_SAMPLE,), generator=generator).unique()
            first = table.rows.first_row
            ends = torch.tensor([first, first + table.rows.count])
            low, high = torch.searchsorted(ids, ends).tolist()
            bounds.append(slice(low, high))
            self._ids.append((ids[low:high] - first).to(table.weight.device))
        if file is not None and file.is_file():
            saved = read_tensors(file)
            self._start = [
                saved[str(number)][mine].to(table.weight.device)
                for number, (table, mine) in enumerate(zip(tables, bounds, strict=True))
            ]
        else:
            self._start = self._sample()
            if file is not None:
                self._keep(file)
        self.start_rms = self._rms(self._start)

    def moved(self) -> float | None:
        """Root mean square of the change since then, in those of the values before.

        None where the tables started at zero, or there are none.
        """
        now = self._sample()
        change = self._rms([new - old for new, old in zip(now, self._start, strict=True)])
        return (change or 0.0) / self.start_rms if self.start_rms else None

    def now_rms(self) -> float | None:
        """Root mean square of the values now; None without tables."""
        return self._rms(self._sample())

    def _sample(self) -> list[Tensor]:
        return [
            table.rows.read(ids).double()
            for table, ids in zip(self._tables, self._ids, strict=True)
        ]

    def _keep(self, file: Path) -> None:
        """Write the sample of all processes."""
        mine = [it.cpu() for it in self._start]
        parts = [mine]
        is_first = True
        if any(table.is_shard for table in self._tables):
            parts = [mine] * dist.get_world_size()
            dist.all_gather_object(parts, mine)
            is_first = dist.get_rank() == 0
        if is_first:
            whole = {
                str(number): torch.cat(it) for number, it in enumerate(zip(*parts, strict=True))
            }
            with atomic_write(file) as opened:
                opened.write(save(whole))

    def _rms(self, values: Sequence[Tensor]) -> float | None:
        totals = [[float(value.square().sum()), float(value.numel())] for value in values]
        if not totals:
            return None
        sums = torch.tensor(totals, dtype=torch.float64)  # tables x 2
        if any(table.is_shard for table in self._tables):
            sums = sum_over_processes(sums)
        square, count = sums.sum(0).tolist()
        return sqrt(square / count) if count else None


def count_touched(tables: Sequence[TrainedTable]) -> int:
    """Count the rows that ever had a gradient, of all processes: those with a state."""
    total = 0
    for table in tables:
        here = 0
        column = next(iter(table.columns.values()))
        for start in range(0, column.count, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, column.count)
            ids = torch.arange(start, stop, device=table.weight.device)
            here += int((column.read(ids) != 0).any(dim=1).sum())
        if table.is_shard:
            here = int(sum_over_processes(torch.tensor(here)))
        total += here
    return total
