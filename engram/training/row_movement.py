"""`RowMovement`: distance that the rows of trained tables moved; and the rows that were touched."""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor

from engram.storage.files import atomic_write
from engram.training.tensor_files import read_tensors
from engram.training.trained_table import TrainedTable

# Rows of each table that are watched.
_SAMPLE = 4096
_BLOCK_ROWS = 2**16


class RowMovement:
    """The rows of tables before training, a sample of them.

    Args:
        tables: The tables, before their first step, or of a run that goes on.
        seed: Seed of the sample.
        file: Place of the sample for runs that go on; None to keep it in memory alone.
    """

    def __init__(self, tables: Sequence[TrainedTable], seed: int, file: Path | None = None) -> None:
        self._tables = tables
        self._ids = []
        for number, table in enumerate(tables):
            generator = torch.Generator().manual_seed(seed + number)
            ids = torch.randint(table.rows.count, (_SAMPLE,), generator=generator).unique()
            self._ids.append(ids.to(table.weight.device))
        if file is not None and file.is_file():
            saved = read_tensors(file)
            devices = [table.weight.device for table in tables]
            self._start = [saved[str(number)].to(it) for number, it in enumerate(devices)]
            return
        self._start = self._sample()
        if file is not None:
            named = {str(number): it.cpu() for number, it in enumerate(self._start)}
            with atomic_write(file) as whole:
                whole.write(save(named))

    @property
    def start_rms(self) -> float | None:
        """Root mean square of the values before; None without tables."""
        return _rms(self._start)

    def moved(self) -> float | None:
        """Root mean square of the change since then, in those of the values before.

        None where the tables started at zero, or there are none.
        """
        start = self.start_rms
        if not start:
            return None
        now = self._sample()
        change = _rms([new - old for new, old in zip(now, self._start, strict=True)])
        return (change or 0.0) / start

    def now_rms(self) -> float | None:
        """Root mean square of the values now; None without tables."""
        return _rms(self._sample())

    def _sample(self) -> list[Tensor]:
        return [
            table.rows.read(ids).double()
            for table, ids in zip(self._tables, self._ids, strict=True)
        ]


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
            count = torch.tensor(here, device=table.weight.device)
            dist.all_reduce(count)
            here = int(count)
        total += here
    return total


def _rms(values: Sequence[Tensor]) -> float | None:
    count = sum(value.numel() for value in values)
    return sqrt(sum(float(value.square().sum()) for value in values) / count) if count else None
