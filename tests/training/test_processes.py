"""Processes that train together: what one is told when another has ended."""

import pytest
import torch.distributed as dist

from engram.errors import MissingError
from engram.training import processes


def test_a_process_that_waits_for_one_that_ended_says_so(monkeypatch):
    def barrier():
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(processes, "process_count", lambda: 2)
    monkeypatch.setattr(dist, "barrier", barrier)
    with pytest.raises(MissingError, match="Another process of the run has ended"):
        processes.wait_for_all()


def test_a_process_alone_waits_for_nobody():
    assert processes.process_count() == 1
    processes.wait_for_all()
    processes.leave()
