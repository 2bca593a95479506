"""Seams to torch: every undocumented name that the toolkit uses, in one function each."""

from __future__ import annotations

import torch
from torch import Tensor

from engram.seams import Seam

PACKAGE = "torch"


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was written in place; 0 for those of inference mode."""
    return 0 if tensor.is_inference() else tensor._version


def address_of(tensor: Tensor) -> int:
    """Return the address of a tensor's first value, which tells two storages apart."""
    return tensor.data_ptr()


def records_a_graph() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace records what is run.

    Code that runs then may not look at values: it would be recorded for those alone.
    """
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return tracing or torch.compiler.is_compiling()


def records_a_lasting_graph() -> bool:
    """Whether torch.export or torch.jit.trace records a graph that runs without its model.

    Unlike one of torch.compile, it keeps nothing that lives in Python objects.
    """
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return tracing or torch.compiler.is_exporting()


def _versions_count() -> bool:
    with torch.inference_mode(False):  # whatever mode the caller is in
        tensor = torch.zeros(1, device="cpu")
        before = version_of(tensor)
        tensor.add_(1)
        return version_of(tensor) == before + 1


def _addresses_differ() -> bool:
    return address_of(torch.zeros(1, device="cpu")) != 0


SEAMS = (
    Seam("Tensor._version", "checking a token map again after it was written to", _versions_count),
    Seam("Tensor.data_ptr", "pinning a table on the host again after it moved", _addresses_differ),
)
