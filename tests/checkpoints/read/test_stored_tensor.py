"""Rows of a stored tensor are the same whether they are read of it or of a part of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engram.checkpoints.read.stored_tensor import stored_tensor
from engram.storage.safetensors_headers import read_header

ROWS, WIDTH, CUT = 70, 40, 45
SCALES = {
    "one for 32 columns of a row": torch.randint(118, 124, (ROWS, 2), dtype=torch.uint8),
    "one for 32 columns of 32 rows": torch.randint(118, 124, (3, 2), dtype=torch.uint8),
    "one for all": torch.rand(1),
    "one a piece": torch.rand(2),
    "one a row": torch.rand(ROWS, 1),
}


@pytest.mark.parametrize("kind", [*SCALES, "int8", "none"])
def test_a_part_has_the_values_of_its_rows(tmp_path, kind):
    values, scales = torch.randn(ROWS, WIDTH), SCALES.get(kind)
    if scales is not None:
        values = values.to(torch.float8_e4m3fn)
    elif kind == "int8":
        values = torch.randint(-127, 128, (ROWS, WIDTH), dtype=torch.int8)
        scales = torch.rand(ROWS, 1)
    state = {"one": values[:CUT].clone(), "other": values[CUT:].clone()}
    save_file(state | ({} if scales is None else {"scale": scales}), tmp_path / "x.safetensors")
    found = read_header(tmp_path / "x.safetensors")
    pieces = [found["one"], found["other"]]
    whole = stored_tensor("x", (ROWS, WIDTH), pieces, [found["scale"]] if "scale" in found else [])
    expected = whole.read(0, ROWS)
    assert torch.equal(expected, torch.cat([whole.read(i, 1) for i in range(ROWS)]))
    if scales is not None and scales.dtype == torch.float32 and len(scales) == ROWS:
        assert torch.equal(expected, values.float() * scales)
    for first, rows in ((0, 10), (37, 20), (33, 37), (64, 6)):
        part = whole.part(first, (rows, WIDTH))
        assert torch.equal(part.read(0, rows), expected[first : first + rows])
        assert torch.equal(part.read(3, rows - 4), expected[first + 3 : first + rows - 1])
        by_row = part.read_rows(np.arange(rows))
        assert torch.equal(torch.from_numpy(by_row).float(), expected[first : first + rows])
