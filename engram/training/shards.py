"""Tables shared by several processes: each has a range of the rows, and saves and loads it.

The processes of a group all hold the model, or parts of it by FSDP2. `shard_tables` leaves to each
process its own rows of every trainable table, and the optimiser's state beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engram.errors import CorruptFileError, UsageError
from engram.nn.compat import leave_out_of_ddp
from engram.nn.embedding import MultiHeadEmbedding
from engram.nn.rows import Rows
from engram.nn.sharded import ShardedEmbedding, first_row_of, place_in
from engram.training.processes import transport_device

# Bytes of rows that travel, or are read, at a time.
_BLOCK_BYTES = 2**24


def shard_tables(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Leave to this process its own rows of every trainable table, and free the others.

    Call it on every process, with equal tables: after loading or initialising the model and
    wrapping it (PEFT), before making the optimiser and before DistributedDataParallel. For FSDP2,
    give `table_parameters` to every ``fully_shard(ignored_params=...)``.

    Args:
        model: The outermost model; its tables in memory are replaced by `ShardedEmbedding`.
        group: The processes; the default group when None.

    Raises:
        UsageError: There is no process group, a table is in a file, or has fewer rows than there
            are processes.
    """
    for tables in _trainable(model):
        whole = tables.embedding
        if isinstance(whole, ShardedEmbedding):
            continue
        if not isinstance(whole, nn.Embedding):
            raise UsageError(
                "Only tables in memory can be divided among processes, got "
                f"{type(whole).__name__}.",
                "Divide it where it is made: wrap this process's rows in a ShardedEmbedding.",
                table=type(whole).__name__,
            )
        rows, weight = whole.num_embeddings, whole.weight
        rank, ranks = place_in(group)
        first, end = (first_row_of(it, ranks, rows) for it in (rank, rank + 1))
        # The same module with fewer rows: what it does with them stays as it is.
        whole.weight = nn.Parameter(weight.detach()[first:end].clone())
        whole.num_embeddings = end - first
        tables.embedding = ShardedEmbedding(whole, rows, group)
    leave_tables_out_of_ddp(model)


def gather_tables(model: nn.Module) -> None:
    """Give the first process all rows of every trainable table again; a collective.

    The model of the first process can be saved then; those of the others cannot be used any more.

    Args:
        model: The model whose tables are divided.
    """
    for tables in _trainable(model):
        shared = tables.embedding
        if not isinstance(shared, ShardedEmbedding):
            continue
        rank, _ = place_in(shared.group)
        blocks = list(gathered_blocks(shared.rows, shared.num_embeddings, shared.group))
        if rank == 0:
            tables.embedding = nn.Embedding.from_pretrained(torch.cat(blocks), freeze=False)


def leave_tables_out_of_ddp(model: nn.Module) -> None:
    """Have DistributedDataParallel neither exchange nor overwrite the trainable tables of a model.

    Args:
        model: The model that is given to DistributedDataParallel, with all its wrappers.
    """
    tables = table_parameters(model)
    leave_out_of_ddp(model, [name for name, it in model.named_parameters() if it in tables])


def table_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Return the trainable tables' parameters, which FSDP2 is to ignore.

    Args:
        model: The model.

    Returns:
        What ``fully_shard(ignored_params=...)`` takes.
    """
    return {tables.embedding.weight for tables in _trainable(model)}


def gathered_blocks(
    rows: Rows, total_rows: int, group: dist.ProcessGroup | None = None
) -> Iterator[Tensor]:
    """Yield the rows of all processes, in order, to the first process of the group.

    A collective, unless this process has all the rows: every process iterates to the end, though
    only the first gets blocks.

    Args:
        rows: This process's rows of a table, or of a column of state beside one.
        total_rows: Rows of the whole table.
        group: The processes; the default group when None.

    Yields:
        Rows ``[n, W]`` in memory, new at each step, of at most 16 MiB (or one row).
    """
    rank, ranks = (0, 1) if rows.count == total_rows else place_in(group)
    step = _block_rows(rows)
    if rank == 0:
        yield from (rows.read(ids).cpu() for ids in _blocks(rows))
    if ranks == 1:
        return
    carrier = transport_device(group)
    if rank != 0:
        for ids in _blocks(rows):
            # As bytes, since not every transport carries every dtype.
            block = rows.read(ids).to(carrier).contiguous().view(torch.uint8)
            dist.send(block, group=group, group_dst=0)
        return
    for owner in range(1, ranks):
        first, end = (first_row_of(it, ranks, total_rows) for it in (owner, owner + 1))
        for start in range(first, end, step):
            shape = (min(step, end - start), rows.width * rows.dtype.itemsize)
            block = torch.empty(shape, dtype=torch.uint8, device=carrier)
            dist.recv(block, group=group, group_src=owner)
            yield block.view(rows.dtype).cpu()


def read_rows(path: Path, start_byte: int, rows: Rows) -> None:
    """Fill this process's rows from a file with the whole table; no other process takes part.

    Args:
        path: The file, such as a safetensors file.
        start_byte: Byte of the file at which row 0 of the whole table starts.
        rows: This process's rows of a table, or of a column of state, stored in their dtype.

    Raises:
        CorruptFileError: The file ends before the rows do.
    """
    row_bytes = rows.width * rows.dtype.itemsize
    with path.open("rb") as file:
        file.seek(start_byte + rows.first_row * row_bytes)
        for ids in _blocks(rows):
            block = bytearray(len(ids) * row_bytes)
            if file.readinto(block) != len(block):
                raise CorruptFileError(
                    f"{path} ends before row {rows.first_row + rows.count} of a table that starts "
                    f"at byte {start_byte}.",
                    "Copy it again, or resume from an earlier checkpoint.",
                    path=str(path),
                    start_byte=start_byte,
                    row=rows.first_row + rows.count,
                )
            values = torch.frombuffer(block, dtype=rows.dtype).view(-1, rows.width)
            rows.write(ids, values.to(rows.device))


def _trainable(model: nn.Module) -> Iterator[Any]:
    """Yield the modules of trainable tables."""
    for module in model.modules():
        if isinstance(module, MultiHeadEmbedding):
            weight: Any = getattr(module.embedding, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.requires_grad:
                yield module


def _block_rows(rows: Rows) -> int:
    return max(1, _BLOCK_BYTES // (rows.width * rows.dtype.itemsize))


def _blocks(rows: Rows) -> Iterator[Tensor]:
    """Yield the numbers of consecutive rows here, a block at a time."""
    step = _block_rows(rows)
    for start in range(0, rows.count, step):
        yield torch.arange(start, min(start + step, rows.count), device=rows.device)
