"""`QuantisedDiskEmbedding`: a table of fp8 or int8 rows that stays in its file, with its scales.

Shapes: n row ids, E width of a row.
"""

from pathlib import Path

import torch
from torch import Tensor

from engram.nn.disk import DiskEmbedding, row_source
from engram.nn.quantised import FORMATS, find_format
from engram.storage.dtypes import scales_per_row
from engram.storage.row_file import RowFile


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
