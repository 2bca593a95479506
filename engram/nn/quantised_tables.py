"""Tables of fp8 or int8 rows that are dequantised when looked up: in memory, and in their files.

Shapes: n row ids, E width of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.errors import MismatchError
from engram.nn.disk import DiskEmbedding, row_source
from engram.nn.frozen import FrozenTable
from engram.nn.quantised import FORMATS, find_format
from engram.storage.dtypes import scales_per_row
from engram.storage.row_file import RowFile


class QuantisedEmbedding(FrozenTable):
    """An embedding for inference whose rows are stored in eight bits per value, with scales.

    Look-ups return the dtype last set by `to()`, initially float32; the stored values are never
    cast. Both tensors are buffers, ``weight`` and ``scale``, as DeepSeek-V4.1 stores its tables.

    A new table is zero: quantised tables are loaded, not trained.

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Width E of a row.
        table_dtype: ``fp8`` or ``int8``, see `engram.nn.quantised`.
        offload: Whether the table stays in host memory when the rest of the module moves.
        device: Device of the table.

    Raises:
        LayoutError: `table_dtype` is unknown.
    """

    weight: Tensor
    scale: Tensor
    way_out = "Convert the checkpoint to train it: engram convert FOLDER -o OUT --dtype bfloat16"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        table_dtype: str,
        *,
        offload: bool = False,
        device: torch.device | str | int | None = None,
    ) -> None:
        super().__init__()
        form = self._format = find_format(table_dtype)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.table_dtype, self.offload, self.dtype = table_dtype, offload, torch.float32
        asked = torch.get_default_device() if device is None else torch.device(device)
        home = "cpu" if offload and asked.type != "meta" else asked
        shape = (num_embeddings, embedding_dim)
        scales = (num_embeddings, scales_per_row(embedding_dim, table_dtype))
        # Not parameters: optimisers, gradient clipping and casts must not touch them.
        self.register_buffer("weight", torch.empty(shape, dtype=form.codes, device=home))
        self.register_buffer("scale", torch.empty(scales, dtype=form.scales, device=home))
        self.register_load_state_dict_pre_hook(_check_stored)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make every row zero."""
        nn.init.zeros_(self.weight)
        nn.init.ones_(self.scale)

    def forward(self, input: Tensor) -> Tensor:
        """Look up rows.

        Args:
            input: Row ids, int of any shape, on any device.

        Returns:
            Rows ``[..., E]`` of the module's dtype, on the device of the ids.

        Raises:
            IndexError: An id is outside of the table (checked on a CPU only).
        """
        if input.device == self.weight.device:
            rows = self._rows(input.reshape(-1), input.device)
            return rows.view(*input.shape, self.embedding_dim)
        # Copies to a device take most of the time, so each distinct row is copied once.
        distinct, inverse = torch.unique(input, return_inverse=True)
        return F.embedding(inverse, self._rows(distinct, input.device))

    def describe(self) -> str:
        """Return the start of a sentence that identifies this table."""
        return f"The table is stored in {self.table_dtype}, for inference,"

    def extra_repr(self) -> str:
        """Describe the table for `print(model)`."""
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.table_dtype}"

    def _rows(self, ids: Tensor, device: torch.device) -> Tensor:
        """Gather rows ``[n]``, copy them to a device and dequantise them ``[n, E]``."""
        ids = ids.to(self.weight.device)
        codes, scales = (_gather(table, ids).to(device) for table in (self.weight, self.scale))
        return self._format.dequantise(codes, scales, dtype=self.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantisedEmbedding:
        """Follow moves between devices; a cast changes only the dtype that look-ups return."""
        probe = fn(torch.empty(0, dtype=self.dtype, device=self.weight.device))
        self.dtype = probe.dtype
        stays = self.offload and probe.device.type not in ("cpu", "meta")

        def move(tensor: Tensor) -> Tensor:
            if not stays:
                # torch does not cast integers.
                return fn(tensor.view(torch.uint8)).view(tensor.dtype)
            return torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor.cpu()

        return cast(QuantisedEmbedding, super()._apply(move, recurse))


class QuantisedDiskEmbedding(DiskEmbedding):
    """An embedding whose quantised rows are read from a file and dequantised when looked up.

    Args:
        path: The file.
        start_byte: Byte of the file at which the values start.
        num_embeddings: Rows of the table.
        embedding_dim: Width E of a row.
        table_dtype: ``fp8`` or ``int8``, see `engram.nn.quantised`.
        scale_path: The file with the scales, which may be the same.
        scale_start_byte: Byte of that file at which they start.
        cache_rows: See `DiskEmbedding`.

    Raises:
        LayoutError: `table_dtype` is unknown.
    """

    stored_dtypes = tuple(form.codes for form in FORMATS.values())

    def __init__(
        self,
        path: str | Path,
        start_byte: int,
        num_embeddings: int,
        embedding_dim: int,
        table_dtype: str,
        scale_path: str | Path,
        scale_start_byte: int,
        *,
        cache_rows: int = 0,
    ) -> None:
        form = find_format(table_dtype)
        super().__init__(
            path, start_byte, num_embeddings, embedding_dim, form.codes, cache_rows=cache_rows
        )
        self.table_dtype, self.dtype, self._format = table_dtype, torch.float32, form
        scale_bytes = scales_per_row(embedding_dim, table_dtype) * form.scales.itemsize
        scales = RowFile(scale_path, scale_start_byte, num_embeddings, scale_bytes)
        self.stored["scale"] = (scales, form.scales)
        self.sources.append(row_source(scales, cache_rows))

    def _rows(self, host_ids: Tensor, device: torch.device) -> Tensor:
        flat, dtypes = host_ids.reshape(-1), (self._format.codes, self._format.scales)
        codes, scales = (
            self._read(source, flat, device, dtype)
            for source, dtype in zip(self.sources, dtypes, strict=True)
        )
        rows = self._format.dequantise(codes, scales, dtype=self.dtype)
        return rows.view(*host_ids.shape, self.embedding_dim)


def _gather(table: Tensor, ids: Tensor) -> Tensor:
    """Select rows as bytes, since not every operation supports eight-bit floats."""
    return F.embedding(ids, table.view(torch.uint8)).view(table.dtype)


def _check_stored(
    table: QuantisedEmbedding, state: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Raise an error, before loading, for values in another storage format."""
    for name, mine in (("weight", table.weight), ("scale", table.scale)):
        stored = state.get(prefix + name)
        if stored is None or stored.dtype == mine.dtype:
            continue
        if stored.dtype == torch.uint8 and mine.dtype == torch.float8_e8m0fnu:
            state[prefix + name] = stored.view(mine.dtype)  # same bytes, other dtype in the file
            continue
        raise MismatchError(
            f"{prefix}{name} is {stored.dtype}; a table of {table.table_dtype} rows needs "
            f"{mine.dtype}.",
            "Build the module with the table_dtype of the file, or convert: engram convert.",
            stored=str(stored.dtype),
            expected=str(mine.dtype),
        )
