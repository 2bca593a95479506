"""Processes of torch's default group that train together; a process alone is one."""

import torch
import torch.distributed as dist
from torch import Tensor

from engram.errors import MissingError


def process_count() -> int:
    """Return the number of processes of the default group; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def wait_for_all() -> None:
    """Wait until all processes of the default group are here; alone, do nothing.

    Raises:
        MissingError: One of them has ended.
    """
    if process_count() > 1:
        try:
            dist.barrier()
        except RuntimeError as error:
            raise MissingError(
                "Another process of the run has ended.", "Its own message says why."
            ) from error


def leave() -> None:
    """Leave the default group, as NCCL asks for before a process ends; without one, do nothing."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def transport_device(group: dist.ProcessGroup | None = None) -> torch.device:
    """Return the device that tensors must be on to be sent: the GPU of NCCL, else the CPU.

    Args:
        group: The processes; the default group when None.
    """
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def sum_over_processes(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return the sums of all processes' values, on their device.

    Args:
        values: The values of this process, of any shape, on any device.
        group: The processes; the default group when None.
    """
    sums = values.to(transport_device(group), copy=True)
    dist.all_reduce(sums, group=group)
    return sums.to(values.device)
