"""Runs a function in several processes that form a group (gloo), and returns what each returned."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch

_SERVER: list[ForkServerContext] = []
# A process that waits for one that never comes ends after this time, with an error.
_PATIENCE = datetime.timedelta(seconds=60)


def on_ranks(ranks: int, work: Callable[..., Any], *args: Any, **options: Any) -> list[Any]:
    """Run a function of `support`, or of an installed package, on each rank of a group.

    Args:
        ranks: Number of processes.
        work: The function; gets the arguments.
        *args: Its arguments.
        **options: Its arguments by name.

    Returns:
        What it returned on each rank.
    """
    if not _SERVER:
        # Processes are forked from one that has imported everything.
        _SERVER.append(multiprocessing.get_context("forkserver"))
        _SERVER[0].set_forkserver_preload(["torch.distributed.fsdp", "support.ranks", "engram.hf"])
    with tempfile.TemporaryDirectory(prefix="engram-ranks-") as folder:
        processes = [
            _SERVER[0].Process(
                target=_run, args=(folder, rank, ranks, partial(work, **options), args), daemon=True
            )
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        failed = [path.read_text() for path in sorted(Path(folder).glob("*.failed"))]
        assert not failed, "\n".join(failed)
        assert [it.exitcode for it in processes] == [0] * ranks
        for process in processes:
            process.close()
        return [torch.load(f"{folder}/{rank}.pt", weights_only=False) for rank in range(ranks)]


def _run(folder: str, rank: int, ranks: int, work: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    # As torchrun sets them: accelerate looks for them.
    os.environ |= {f"{kind}RANK": str(rank) for kind in ("", "LOCAL_")}
    os.environ |= {f"{kind}WORLD_SIZE": str(ranks) for kind in ("", "LOCAL_")}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # the group is there already
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=ranks,
        timeout=_PATIENCE,
    )
    torch.distributed.barrier()  # nobody ends while others connect
    try:
        torch.save(work(*args), f"{folder}/{rank}.pt")
    except BaseException:
        Path(f"{folder}/{rank}.failed").write_text(f"rank {rank}: {traceback.format_exc()}")
        sys.exit(1)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
