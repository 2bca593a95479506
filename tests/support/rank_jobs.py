"""Functions for the ranks of a group: look-ups, training, saving and loading of shared tables."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import engram
from engram.config.engram_config import EngramConfig
from engram.nn import EngramModule, MultiHeadEmbedding, ShardedEmbedding
from engram.nn.file_table import FileEmbedding, FileRows
from engram.nn.rows import rows_of
from engram.nn.sharded import first_row_of
from engram.storage.row_journal import Journal
from engram.storage.safetensors_headers import read_header
from engram.storage.safetensors_writer import TensorStream
from engram.training import Listeners, MemoryOptimizer, TrainOptions, optimizer_for, shards
from engram.training import train as run_training
from support import tiny
from support.demo_modules import make_config, make_module
from support.shards import write_shard

_VOCAB = 60


def own_rows(table: Tensor, sparse: bool = True) -> ShardedEmbedding:
    """This rank's rows of a table."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    first, end = (first_row_of(it, ranks, len(table)) for it in (rank, rank + 1))
    rows = table[first:end].clone()
    local = nn.Embedding(*rows.shape, sparse=sparse, _weight=rows)
    return ShardedEmbedding(local, len(table))


def look_up(table: Tensor, ids: list[Tensor], factors: list[Tensor], sparse: bool) -> Any:
    """Rows of each rank's ids, and the gradient of its rows when they are weighted by factors."""
    rank = dist.get_rank()
    embedding = own_rows(table, sparse)
    with torch.no_grad():
        evaluated = embedding(ids[rank])
    rows = embedding(ids[rank])
    assert torch.equal(evaluated, rows)
    (rows * factors[rank]).sum().backward()
    grad = embedding.weight.grad
    assert grad.is_sparse == sparse
    return rows.detach(), grad.to_dense()


def misuse(table: Tensor) -> list[str]:
    """Messages of errors, by rank."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    said = []

    def refused(call: Any) -> None:
        try:
            call()
        except engram.EngramError as error:
            said.append(type(error).__name__)

    embedding = own_rows(table)
    states: list[Any] = [None] * ranks
    dist.all_gather_object(states, embedding.state_dict())
    embedding.load_state_dict(states[rank])
    refused(lambda: embedding.load_state_dict(states[1 - rank]))
    refused(lambda: ShardedEmbedding(nn.Embedding(1, 2), len(table)))
    refused(lambda: ShardedEmbedding(nn.Embedding(1, 2), 1))
    return said


def share(folder: Path) -> Any:
    """What a model with shared tables says of itself, and refuses."""
    model = engram.load(folder)
    modules = [it for it in model.modules() if isinstance(it, EngramModule)]
    before = [it.count_parameters() for it in modules]
    shards.shard_tables(model)
    weights = shards.table_parameters(model)
    assert len(weights) == len(modules)
    shards.shard_tables(model)  # again changes nothing
    assert shards.table_parameters(model) == weights
    said = []
    for call in (
        lambda: model.save_pretrained(folder / "never"),
        lambda: modules[0].reset_parameters(),
    ):
        try:
            call()
        except engram.EngramError as error:
            said.append(type(error).__name__)
    held = [it.multi_head_embedding.embedding.weight.numel() for it in modules]
    return before, [it.count_parameters() for it in modules], said, held


class Toy(nn.Module):
    """A language model of two layers with memories, all of whose arithmetic is in its dtype.

    Models of transformers compute norms and losses in float32, whatever their dtype.
    """

    def __init__(self, is_checkpointed: bool = False) -> None:
        super().__init__()
        config = make_config(max_ngram_size=2, layer_ids=[1, 0])
        torch.manual_seed(1)
        self.embed = nn.Embedding(_VOCAB, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config, layer) for layer in (0, 1))
        self.head = nn.Linear(config.hidden_size, _VOCAB)
        self._is_checkpointed = is_checkpointed
        with torch.no_grad():
            # Keys and queries agree: the root in the gate is steep at zero, where roundings grow.
            self.embed.weight.add_(1)
            for layer in self.layers:
                layer.engram.key_proj.bias.add_(1)

    def forward(self, ids: Tensor) -> Tensor:
        """The mean loss of predicting ids ``[B, T]``."""
        before = F.pad(ids, (1, 0))[:, :-1]
        hidden = self.embed(ids)
        for layer in self.layers:
            if self._is_checkpointed:
                hidden = checkpoint(layer, hidden, ids, before, use_reentrant=False)
            else:
                hidden = layer(hidden, ids, before)
        logits = self.head(hidden[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


class _Layer(nn.Module):
    def __init__(self, config: EngramConfig, layer: int) -> None:
        super().__init__()
        self.mix = nn.Linear(config.hidden_size, config.hidden_size)
        self.engram = make_module(config, layer, seed=layer)

    def forward(self, hidden: Tensor, ids: Tensor, before: Tensor) -> Tensor:
        sizes = torch.tensor(self.engram.multi_head_embedding.head_sizes)
        hash_ids = (ids * 31 + before * 17)[..., None] * torch.arange(3, 3 + len(sizes)) % sizes
        hidden = hidden + torch.tanh(self.mix(hidden))
        return self.engram.add(hidden, hash_ids)


def train(
    kind: str,
    steps: int = 20,
    *,
    dtype: torch.dtype = torch.float32,
    table_dtype: torch.dtype | None = None,
    micro_batches: int = 1,
    is_checkpointed: bool = False,
    is_shared: bool = True,
    files: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train a toy on each rank's part of every batch.

    Args:
        kind: ``one`` (a process alone), ``ddp`` or ``fsdp2``.
        steps: Steps.
        dtype: dtype of the model.
        table_dtype: dtype of the tables; that of the model when None.
        micro_batches: Micro-batches of a step.
        is_checkpointed: Whether to checkpoint gradients.
        is_shared: Whether ranks share the tables.
        files: Folder for tables that ranks share in files; in memory when None.
        **options: Options of the optimiser.

    Returns:
        Losses of this rank, norms, its rows of each table, and its columns of their state.
    """
    rank, ranks = (0, 1) if kind == "one" else (dist.get_rank(), dist.get_world_size())
    model = Toy(is_checkpointed).to(dtype)
    heads = [it for it in model.modules() if isinstance(it, MultiHeadEmbedding)]
    for it in heads:
        it.embedding.to(table_dtype or dtype)
    if files is not None:
        for number, it in enumerate(heads):
            it.embedding = in_file(files / f"{number}", it.embedding.weight.detach())
    if kind != "one" and is_shared:
        shards.shard_tables(model)
    parallel: Any = model
    if kind == "fsdp2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        places: Any = {
            "mesh": init_device_mesh("cpu", (ranks,)),
            "ignored_params": shards.table_parameters(model),
        }
        for layer in model.layers:
            fully_shard(layer, **places)
        parallel = fully_shard(model, **places)
    optimizer = MemoryOptimizer(model, **options)
    if kind == "ddp":
        parallel = nn.parallel.DistributedDataParallel(model)
    batches = random_batches()
    losses, norms = [], []
    for step in range(steps):
        loss_of_step = 0.0
        for number in range(micro_batches):
            batch = batches[(step * micro_batches + number) % len(batches)]
            waits = kind == "ddp" and number + 1 < micro_batches
            with parallel.no_sync() if waits else nullcontext():
                loss = parallel(batch.chunk(ranks)[rank]) / micro_batches
                loss.backward()
            loss_of_step += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss_of_step)
        norms.append(optimizer.last_grad_norm)
    return {
        "losses": torch.tensor(losses, dtype=torch.float64),
        "norms": torch.tensor(norms, dtype=torch.float64),
        "tables": [it.rows.read(torch.arange(it.rows.count)) for it in optimizer.tables],
        "state": [
            {name: column.read(torch.arange(column.count)) for name, column in it.columns.items()}
            for it in optimizer.tables
        ],
    }


def in_file(folder: Path, table: Tensor) -> ShardedEmbedding:
    """This rank's rows of a table in a file, which all ranks share."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    first, end = (first_row_of(it, ranks, len(table)) for it in (rank, rank + 1))
    path = folder / "table.safetensors"
    if rank == 0:
        folder.mkdir()
        save_file({"table": table}, path)
    dist.barrier()
    journal = Journal(folder, rank)
    rows = FileRows(journal, read_header(path)["table"], first, end - first)
    return ShardedEmbedding(FileEmbedding(rows), len(table))


def dense_norm(micro_batches: int) -> float:
    """Norm of the first step's gradients, in one process whose gradients are all dense."""
    model = Toy()
    for batch in random_batches()[:micro_batches]:
        (model(batch) / micro_batches).backward()
    grads = [it.grad for it in model.parameters()]
    assert not any(it is None or it.is_sparse for it in grads)
    return float(nn.utils.get_total_norm(grads))


def random_batches() -> Tensor:
    """Some batches ``[4, 6, 17]``."""
    return torch.randint(0, _VOCAB, (4, 6, 17), generator=torch.Generator().manual_seed(5))


def trainer(folder: Path, kind: str, output: Path, **arguments: Any) -> dict[str, Any]:
    """Train an attached model with transformers' own Trainer on six rows a step.

    Args:
        folder: The model.
        kind: ``one`` (a process alone), ``whole`` (each rank holds the tables) or ``shared``.
        output: Folder of the trainer.
        **arguments: More arguments of the trainer.

    Returns:
        Logged losses, the tables' rows here, and other weights of the memory.
    """
    from transformers import Trainer, TrainingArguments

    ranks = 1 if kind == "one" else dist.get_world_size()
    model = tiny.randomise(engram.load(folder))
    if kind == "shared":
        shards.shard_tables(model)
    rows = torch.randint(3, tiny.VOCAB, (24, 17), generator=torch.Generator().manual_seed(5))
    values: dict[str, Any] = {
        "max_steps": 8,
        "per_device_train_batch_size": 6 // ranks,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0,
        "logging_steps": 1,
        "ddp_find_unused_parameters": False,
    }
    values |= {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    used = Trainer(
        model=model,
        args=TrainingArguments(str(output), **{**values, **arguments}),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        optimizer_cls_and_kwargs=optimizer_for(lr=1e-4),
    )
    used.train()
    heads = [it for it in model.modules() if isinstance(it, MultiHeadEmbedding)]
    tables = {id(it.embedding.weight) for it in heads}
    return {
        "losses": [line["loss"] for line in used.state.log_history if "loss" in line],
        "tables": [it.embedding.weight.detach().clone() for it in heads],
        "others": {
            name: weight.detach().clone()
            for name, weight in model.named_parameters()
            if ".engram." in name and id(weight) not in tables
        },
    }


def write(path: Path, table: Tensor, block_bytes: int) -> None:
    """Write a shared table, and a column of state beside it, to a safetensors file."""
    shards._BLOCK_BYTES = block_bytes
    rows = rows_of(own_rows(table))
    column = rows.column("sum", 1, torch.float32)
    ids = torch.arange(rows.count)
    column.write(ids, (ids[:, None] + rows.first_row).float())
    tags = {torch.float32: "F32", torch.bfloat16: "BF16"}
    streams = [
        TensorStream(
            name,
            tags[it.dtype],
            (len(table), it.width),
            (partial(_bytes, block) for block in shards.gathered_blocks(it, len(table))),
        )
        for name, it in {"table": rows, "sum": column}.items()
    ]
    if dist.get_rank() == 0:
        write_shard(path, streams)
    else:
        assert not [block for it in streams for block in it.chunks]


def read(path: Path, rows: int, width: int, dtype: torch.dtype, block_bytes: int) -> Any:
    """Read this rank's rows of what `write` wrote."""
    shards._BLOCK_BYTES = block_bytes
    header = read_header(path)
    here = rows_of(own_rows(torch.zeros(rows, width, dtype=dtype)))
    column = here.column("sum", 1, torch.float32)
    shards.read_rows(path, header["table"].start, here)
    shards.read_rows(path, header["sum"].start, column)
    return here.read(torch.arange(here.count)), column.read(torch.arange(here.count))


def _bytes(block: Tensor) -> Any:
    return block.view(torch.uint8).numpy()


def train_folder(attached: Path, output: Path, text: Path, ends: str, **options: Any) -> Any:
    """Train an attached folder; returns the losses by step.

    Args:
        attached: The folder.
        output: The folder to appear.
        text: The text.
        ends: ``"whole"``; or ``"before it is evaluated"``, which leaves the last checkpoint;
            or ``"resumed"`` from there.
        **options: Those of `TrainOptions`.
    """
    told = [False]

    def interrupt(done: int, total: int | None) -> None:
        if told[-1] and ends == "before it is evaluated":
            raise KeyboardInterrupt

    listeners = Listeners(
        news=lambda news: told.append(news.step == news.steps), evaluation=interrupt
    )
    settings = TrainOptions(context=32, trainer={"use_cpu": True}, **options)
    try:
        done = run_training(
            attached,
            output,
            text,
            options=settings,
            resume=ends == "resumed",
            listeners=listeners,
        )
    except KeyboardInterrupt:
        return None
    return [record["loss"] for record in done.log]
