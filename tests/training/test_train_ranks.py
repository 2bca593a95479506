"""Training by several processes: as by one, and saved by two for one and three."""

from __future__ import annotations

import random
import shutil
from statistics import mean

import pytest
import torch

import engram
from support import rank_jobs, tiny
from support.ranks import on_ranks

pytestmark = pytest.mark.slow

MEMORY = "engram-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    numbers = random.Random(1)
    lines = [
        " ".join(f"w{numbers.randrange(40)}" for _ in range(numbers.randrange(4, 50)))
        for _ in range(80)
    ]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(lines))
    return path


@pytest.fixture(scope="module")
def attached(text, tmp_path_factory):
    """Return a folder of a memory that learns still, whose gradients are no rounding noise."""
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    folder = tmp_path_factory.mktemp("paper")
    tiny.attached_model(base, folder / "attached", init="paper")
    rank_jobs.train_folder(
        folder / "attached", folder / "trained", text, "whole", steps=12, batch=4, lr=1e-2
    )
    return folder / "trained"


@pytest.mark.parametrize("tables", ["ram", "host", "disk"])
def test_two_processes_train_as_one(attached, text, tmp_path, tables):
    # Row-wise rules divide by a row's gradients: where these nearly cancel, rounding grows with lr.
    options = {"steps": 20, "tables": tables, "table_lr": 0.02}
    options |= {"save_every": 0, "evaluate_every": 0}
    two = on_ranks(
        2,
        rank_jobs.train_folder,
        *(attached, tmp_path / "two", text, "whole"),
        **{**options, "batch": 2},
    )
    one = rank_jobs.train_folder(attached, tmp_path / "one", text, "whole", **options, batch=4)
    assert len(one) == 20
    assert mean(one[-5:]) < mean(one[:5]) - 0.02
    assert two[0] == two[1]
    assert two[0] == pytest.approx(one, rel=1e-6)
    start = engram.load(attached).state_dict()
    mine, other = (engram.load(tmp_path / it).state_dict() for it in ("one", "two"))
    tables = [name for name in mine if name.endswith("embedding.weight") and ".engram." in name]
    for name in tables:
        assert (mine[name] - start[name]).abs().max() > 0.02
        torch.testing.assert_close(mine[name], other[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("tables", ["ram", "disk"])
def test_a_run_of_two_is_resumed_by_one_two_and_three(attached, text, tmp_path, tables):
    options = {"steps": 4, "batch": 1, "tables": tables, "save_every": 2, "evaluate_every": 0}
    job = rank_jobs.train_folder
    on_ranks(2, job, attached, tmp_path / "whole", text, "whole", **options)
    whole = (tmp_path / "whole" / MEMORY).read_bytes()
    ends = "before it is evaluated"
    on_ranks(2, job, attached, tmp_path / "saved" / "out", text, ends, **options)
    for ranks in (1, 2, 3):
        folder = tmp_path / f"by-{ranks}"
        shutil.copytree(tmp_path / "saved", folder)
        if ranks == 1:
            job(attached, folder / "out", text, "resumed", **options)
        else:
            on_ranks(ranks, job, attached, folder / "out", text, "resumed", **options)
        assert (folder / "out" / MEMORY).read_bytes() == whole
        assert [it.name for it in folder.iterdir()] == ["out"]
