"""Processes of torch's default group that train together; a process alone is one."""

import torch.distributed as dist


def process_count() -> int:
    """Return the number of processes of the default group; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def wait_for_all() -> None:
    """Wait until all processes of the default group are here; alone, do nothing."""
    if process_count() > 1:
        dist.barrier()
