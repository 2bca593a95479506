"""Controls: runs in which the memory is replaced by something that cannot do what it does.

A memory adds parameters, projections and biases to a model, all of which learn whatever its table
does. So a gain over the base says little; a gain over these controls, with the same seed, data and
steps, tells what the table contributes.

Shapes: C columns (orders x heads), R rows of a table, W width of a row.
"""

from __future__ import annotations

import hashlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from engram.arguments import checked
from engram.checkpoints.attach.own_files import own_files
from engram.errors import LayoutError, UsageError
from engram.hf.unwired import base_config, base_of
from engram.nn import EngramModule, MultiHeadEmbedding
from engram.nn.rows import Rows, rows_of
from engram.storage.folders import new_folder
from engram.training.control_names import ControlName

_BLOCK_ROWS = 4096


class Control(ABC):
    """A model whose memory is replaced by a control.

    Train `model` as the memory would be trained, then call `finish`, then save it.

    Attributes:
        name: Name of the control.
        model: The model to train. `frozen-random` and `uniform` change the given one in place,
            `dense` makes another one that shares the base's weights.
        seed: Seed of what is drawn at random.
        trainable: Parameters of the control that learn.
        frozen: Parameters of the control that must not learn.
    """

    name: ClassVar[ControlName]

    def __init__(self, model: Any, seed: int) -> None:
        self.model, self.seed = model, seed
        self.trainable: list[nn.Parameter] = []
        self.frozen: list[nn.Parameter] = []

    def restrict(self) -> None:
        """Let exactly the control's own parameters learn that are to; the base's stay as they are.

        Call it again after anything that freezes or unfreezes a model, such as `freeze_backbone` or
        PEFT, and before an optimiser is made.
        """
        for weight in self.trainable:
            weight.requires_grad_(True)
        for weight in self.frozen:
            weight.requires_grad_(False)

    def finish(self) -> None:  # noqa: B027 - most controls have nothing to do
        """Turn the trained model into one that gives the same outputs when it is loaded."""

    @abstractmethod
    def save(self, folder: str | Path) -> Path:
        """Write the model into a new folder, whole or not at all.

        Args:
            folder: The folder to appear.

        Returns:
            The folder.

        Raises:
            InputError: Something is there already.
        """


class MemoryControl(Control):
    """A control that keeps the memory's modules: its folder is an attached one like any other.

    Args:
        model: An attached model, whose tables are in memory or can be trained where they are.
        seed: See `Control`.

    Raises:
        UsageError: The model has no memory.
        LayoutError: A table cannot be written to.
    """

    def __init__(self, model: Any, seed: int) -> None:
        super().__init__(model, seed)
        self.memories = memories_of(model)
        for memory in self.memories:
            if memory.frozen_table is not None:
                raise LayoutError(
                    f"{memory.frozen_table.describe()} and cannot be a control's.",
                    f"{memory.frozen_table.way_out}.",
                )

    def save(self, folder: str | Path) -> Path:
        """Write an attached folder, with the tokenizer of the one that the model was loaded from.

        See `Control.save`.
        """
        self.finish()
        source = Path(str(self.model.config.name_or_path))
        beside = [source / name for name in self.model.config.engram["base"]["sidecars"]]
        with new_folder(Path(folder), own_files, False) as new:
            for file in beside:
                if file.is_file() and file.parent == source:
                    shutil.copyfile(file, new / file.name)
            self.model.save_pretrained(new)
        return Path(folder)


class FrozenRandom(MemoryControl):
    """The memory as ``--init identity`` starts it, with a table that stays random.

    Its rows are codes of the n-grams: the projections learn to read them, and nothing learns rows.
    The values depend on the seed alone, on any device and in any number of processes.
    """

    name = "frozen-random"

    def __init__(self, model: Any, seed: int) -> None:
        super().__init__(model, seed)
        for number, memory in enumerate(self.memories):
            key = f"{seed}/{number}"
            table: Any = memory.multi_head_embedding.embedding
            devices = {it.device for it in memory.parameters() if it.device.type == "cuda"}
            with torch.random.fork_rng(sorted(devices, key=str)):
                torch.manual_seed(_seed_of(f"{key}/dense"))
                memory.reset_parameters("identity", table=False)
            _draw_rows(table, key)
            own = list(table.parameters())
            self.frozen += own
            self.trainable += [it for it in memory.parameters() if all(it is not t for t in own)]
        self.restrict()


class Uniform(MemoryControl):
    """One shared row for each head: every look-up reads the first row of its head, which learns.

    The model is the same but for its n-grams, which it cannot tell apart. `finish` copies the row
    into all rows of its head, so that the saved folder needs no rule of its own.
    """

    name = "uniform"

    def __init__(self, model: Any, seed: int) -> None:
        super().__init__(model, seed)
        self._hooks = [
            memory.multi_head_embedding.register_forward_pre_hook(_first_row)
            for memory in self.memories
        ]
        self.trainable = [it for memory in self.memories for it in memory.parameters()]
        self.restrict()

    @torch.no_grad()
    def finish(self) -> None:
        """Copy the row of each head into all of its rows."""
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for memory in self.memories:
            heads = memory.multi_head_embedding
            shared = heads.rows(heads.offsets)  # [C, W]; every process asks, where rows are shared
            rows, start = rows_of(heads.embedding), 0
            for size, row in zip(heads.head_sizes, shared, strict=True):
                for ids in _blocks(rows, start, start + size):
                    values = row.to(rows.device, rows.dtype).expand(len(ids), -1)
                    rows.write(ids.to(rows.device), values)
                start += size


class NoMemory(Control):
    """The base alone: what it learns from the same text without a memory."""

    name = "none"

    def __init__(self, model: Any, seed: int) -> None:
        memories_of(model)
        super().__init__(base_of(model), seed)
        self.model.config = base_config(model.config)  # what it is saved as

    def save(self, folder: str | Path) -> Path:
        """Write the base as `save_pretrained` does; see `Control.save`."""
        with new_folder(Path(folder), lambda _: None, False) as new:
            self.model.save_pretrained(new)
        return Path(folder)


@checked()
def apply_control(model: Any, name: ControlName, seed: int = 0) -> Control:
    """Replace the memory of a model by a control.

    Args:
        model: An attached model, as `engram.load` returns it, not yet wrapped by anything.
        name: ``frozen-random``: random rows that are not trained; ``uniform``: one row for each
            head, which every look-up reads; ``dense``: a feed-forward part of as many parameters;
            ``none``: the base alone.
        seed: Seed of what is drawn at random; train the memory itself with the same.

    Returns:
        The control, whose `model` is to be trained.

    Raises:
        UsageError: The model has no memory, or there is no such control.
        LayoutError: A table cannot be written to.
    """
    from engram.training.dense_control import Dense

    kinds = {kind.name: kind for kind in (FrozenRandom, Uniform, Dense, NoMemory)}
    return kinds[name](model, seed)


@contextmanager
def permute_rows(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Let every look-up read another row of its head, by a random permutation, within a block.

    A check of wiring alone: a model whose loss stays as it was does not read its table. That a
    trained model gets worse says nothing about what the table learned: its projections and
    everything around it were fitted to these rows, be they random. For that, train a control.

    Args:
        model: A model with memories; its weights stay as they are.
        seed: Seed of the permutations.

    Raises:
        UsageError: The model has no memory.
    """
    hooks = []
    for number, memory in enumerate(memories_of(model)):
        heads = memory.multi_head_embedding
        generator = torch.Generator().manual_seed(_seed_of(f"{seed}/{number}/permutation"))
        orders = [
            torch.randperm(size, generator=generator, dtype=torch.int32, device="cpu")
            for size in heads.head_sizes
        ]
        hooks.append(heads.register_forward_pre_hook(partial(_permuted, orders)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def memories_of(model: nn.Module) -> list[EngramModule]:
    """Return the memories of a model, by layer.

    Raises:
        UsageError: It has none.
    """
    found = [module for module in model.modules() if isinstance(module, EngramModule)]
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no memory.", "Give the model that engram.load returned."
        )
    return found


def _first_row(_: MultiHeadEmbedding, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (torch.zeros_like(inputs[0]),)


def _permuted(orders: list[Tensor], _: MultiHeadEmbedding, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Map hash ids ``[..., C]`` by the permutation of each column."""
    columns = inputs[0].unbind(dim=-1)
    moved = [
        order.to(ids.device)[ids].to(ids.dtype) for order, ids in zip(orders, columns, strict=True)
    ]
    return (torch.stack(moved, dim=-1),)


def _draw_rows(table: Any, key: str) -> None:
    """Draw the rows of a table from N(0, 1), each block of rows by a generator of its own."""
    rows = rows_of(table)
    for ids in _blocks(rows, 0, rows.first_row + rows.count):
        block, inside = divmod(int(ids[0]) + rows.first_row, _BLOCK_ROWS)
        generator = torch.Generator().manual_seed(_seed_of(f"{key}/{block}"))
        drawn = torch.randn(_BLOCK_ROWS, rows.width, generator=generator, device="cpu")
        values = drawn[inside : inside + len(ids)].to(table.weight.device, rows.dtype)
        rows.write(ids.to(values.device), values)


def _blocks(rows: Rows, start: int, stop: int) -> Iterator[Tensor]:
    """Yield the numbers here of rows ``start:stop`` of a whole table, as far as they lie here.

    Args:
        rows: The rows that lie here.
        start: The first row, counted in the whole table.
        stop: The row after the last.
    """
    low, high = max(start, rows.first_row), min(stop, rows.first_row + rows.count)
    while low < high:
        end = min(high, (low // _BLOCK_ROWS + 1) * _BLOCK_ROWS)
        yield torch.arange(low - rows.first_row, end - rows.first_row, device="cpu")
        low = end


def _seed_of(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "little")
