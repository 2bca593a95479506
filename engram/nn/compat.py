"""Seams to torch: the undocumented names that the toolkit uses, in one function each."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from engram.seams import Seam

PACKAGE = "torch"


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was written in place; 0 for tensors of inference mode."""
    return 0 if tensor.is_inference() else tensor._version


def address_of(tensor: Tensor) -> int:
    """Return the address of a tensor's first value, which distinguishes storages."""
    return tensor.data_ptr()


def records_a_graph() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace is recording.

    Code that runs then must not branch on values: the recording would hold for those values only.
    """
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return tracing or torch.compiler.is_compiling()


def records_a_lasting_graph() -> bool:
    """Whether torch.export or torch.jit.trace is recording a graph that runs without its model.

    Unlike a graph of torch.compile, it keeps no state of Python objects.
    """
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return tracing or torch.compiler.is_exporting()


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a module only runs the `forward` of its class: no wrapper, and no hooks."""
    hooks = (
        *(module._forward_hooks, module._forward_pre_hooks),
        *(module._backward_hooks, module._backward_pre_hooks),
    )
    return type(module) is kind and not any(hooks) and "forward" not in vars(module)


def leave_out_of_ddp(model: nn.Module, names: Sequence[str]) -> None:
    """Have DistributedDataParallel neither average nor overwrite some parameters of a model.

    Args:
        model: The model that is given to it.
        names: Names of the parameters in it.
    """
    earlier = getattr(model, "_ddp_params_and_buffers_to_ignore", ())
    every = list(dict.fromkeys([*earlier, *names]))
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, every)


def _versions_count() -> bool:
    with torch.inference_mode(False):  # also when the caller is in inference mode
        tensor = torch.zeros(1, device="cpu")
        before = version_of(tensor)
        tensor.add_(1)
        return version_of(tensor) == before + 1


def _addresses_differ() -> bool:
    return address_of(torch.zeros(1, device="cpu")) != 0


def _ddp_leaves_out() -> bool:
    model = nn.Linear(1, 1, device="meta")
    leave_out_of_ddp(model, ["weight"])
    leave_out_of_ddp(model, ["bias"])
    left_out: object = model._ddp_params_and_buffers_to_ignore
    return left_out == ["weight", "bias"]


def _hooks_are_seen() -> bool:
    model = nn.Linear(1, 1, device="meta")
    seen = [is_plain(model, nn.Linear)]
    for add in (
        model.register_forward_hook,
        model.register_forward_pre_hook,
        model.register_full_backward_hook,
        model.register_full_backward_pre_hook,
    ):
        hook = add(lambda *_: None)
        seen.append(not is_plain(model, nn.Linear))
        hook.remove()
    return all(seen)


SEAMS = (
    Seam(
        "Module._forward_hooks and its kin",
        "calling the parts of a memory that have hooks",
        _hooks_are_seen,
    ),
    Seam("Tensor._version", "checking a token map again after it was written to", _versions_count),
    Seam("Tensor.data_ptr", "pinning a table on the host again after it moved", _addresses_differ),
    Seam(
        "DistributedDataParallel._set_params_and_buffers_to_ignore_for_model",
        "leaving tables to their optimiser",
        _ddp_leaves_out,
    ),
)
