"""`LiveMemory`: the memory of a model that is trained, as tensors under the names of its files."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.memory_tensors import expected_tensors
from engram.hf.wiring import find_layers
from engram.nn import EngramModule, MultiHeadEmbedding
from engram.nn.rows import Rows, rows_of
from engram.nn.stored_dtypes import TORCH_DTYPES
from engram.tensor_names import TABLE, layer_and_part
from engram.training.memory_optimizer import MemoryOptimizer
from engram.training.tensor_files import Contents, SharedRows


@dataclass(frozen=True)
class LiveTable:
    """A table of the model, trained or not.

    Attributes:
        layer_id: Its layer.
        embedding: Its module.
    """

    layer_id: int
    embedding: Any

    @property
    def rows(self) -> Rows:
        """The rows of this process."""
        return rows_of(self.embedding)

    @property
    def shared(self) -> SharedRows:
        """The rows of all processes, as a tensor of a file."""
        return SharedRows(self.rows, int(self.embedding.num_embeddings))


class LiveMemory:
    """The memory of a model that is trained.

    Args:
        model: The attached model, without wrappers.
        opened: The checkpoint that it was loaded from.
    """

    def __init__(self, model: nn.Module, opened: Checkpoint) -> None:
        self._model, self._opened = model, opened
        layers = find_layers(model)[1]
        self.modules: dict[int, EngramModule] = {
            layer.layer_id: getattr(layers[layer.layer_id].engram, "in_use", None)
            or layers[layer.layer_id].engram
            for layer in opened.addresses.layers
        }

    @property
    def tables(self) -> list[LiveTable]:
        """The tables, in the order of layers in the addresses."""
        return [
            LiveTable(layer_id, module.multi_head_embedding.embedding)
            for layer_id, module in self.modules.items()
        ]

    def contents(self) -> dict[str, Any]:
        """Return every tensor of the memory by its name in the files, in their dtypes."""
        return {
            name: value if dtype is None else value.detach().to(dtype)
            for name, (value, dtype) in self._parts().items()
        }

    @torch.no_grad()
    def round(self) -> None:
        """Round all but tables to the values that the files will hold; computing stays as wide."""
        for value, dtype in self._parts().values():
            if dtype is not None:
                value.copy_(value.to(dtype))

    def _parts(self) -> dict[str, tuple[Any, torch.dtype | None]]:
        """Return every tensor by its name in the files, with its dtype there; none of tables."""
        opened = self._opened
        expected = expected_tensors(
            opened.stored_config,
            opened.stored_config.stored_dtype(),
            opened.addresses,
            opened.layers_path,
        )
        tables = {table.layer_id: table for table in self.tables}
        states: dict[int, Any] = {
            layer_id: {
                name: value
                for name, value in module.named_parameters()
                if not name.startswith("multi_head_embedding")
            }
            | dict(module.named_buffers())
            for layer_id, module in self.modules.items()
        }
        found: dict[str, tuple[Any, torch.dtype | None]] = {}
        for name, (tag, _) in expected.items():
            layer_id, part = layer_and_part(name) or (0, "")
            if part == TABLE:
                found[name] = tables[layer_id].shared, None
            else:
                found[name] = states[layer_id][part], TORCH_DTYPES[tag]
        return found


def dense_state(model: nn.Module, optimizer: MemoryOptimizer) -> dict[str, torch.Tensor]:
    """Return AdamW's state of everything but tables, by the names of parameters.

    Args:
        model: The model that the optimiser was made for.
        optimizer: The optimiser.
    """
    tables = {id(table.weight) for table in optimizer.tables}
    return {
        f"{key}.{name}": value
        for name, weight in model.named_parameters()
        if weight in optimizer.state and id(weight) not in tables
        for key, value in optimizer.state[weight].items()
    }


def restore_dense_state(
    model: nn.Module, optimizer: MemoryOptimizer, state: dict[str, torch.Tensor]
) -> None:
    """Take over what `dense_state` returned."""
    named = dict(model.named_parameters())
    for key, value in state.items():
        kind, _, name = key.partition(".")
        weight = named[name]
        optimizer.state[weight][kind] = value if kind == "step" else value.to(weight.device)


def row_state(optimizer: MemoryOptimizer, tables: list[LiveTable]) -> Contents:
    """Return the state of rows, by layer and name of the column.

    Args:
        optimizer: The optimiser.
        tables: The tables that it may train.
    """
    return {
        f"{table.layer_id}.{name}": SharedRows(column, int(table.embedding.num_embeddings))
        for table, trained in _trained(optimizer, tables)
        for name, column in trained.columns.items()
    }


def _trained(
    optimizer: MemoryOptimizer, tables: list[LiveTable]
) -> Iterator[tuple[LiveTable, Any]]:
    by_weight = {id(trained.weight): trained for trained in optimizer.tables}
    for table in tables:
        trained = by_weight.get(id(getattr(table.embedding, "weight", None)))
        if trained is not None:
            yield table, trained


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return every trained parameter that is not a table, by name, in the dtype of training."""
    tables = {
        id(getattr(module.embedding, "weight", None))
        for module in model.modules()
        if isinstance(module, MultiHeadEmbedding)
    }
    return {
        name: weight.detach()
        for name, weight in model.named_parameters()
        if weight.requires_grad and id(weight) not in tables
    }
