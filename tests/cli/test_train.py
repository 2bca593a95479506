"""`engram train`: what it says while it trains."""

import re

from support import tiny
from support.cli import run

TEXT = "Alexander the Great saw the Milky Way.\n\nBy the way, the Milky Way is wide.\n\n" * 40


def test_a_held_out_loss_is_told_of_the_step_that_it_is_of(tmp_path_factory, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT)
    attached = tiny.family_folders("llama", tmp_path_factory)[1]
    monkeypatch.chdir(tmp_path)
    words = ["train", str(attached), "--text", "text.txt", "-o", "out", "--context", "16"]
    done = run(*words, "--steps", "3", "--batch", "2", "--evaluate-every", "2")
    assert done.code == 0, done.stderr
    told = re.findall(r"^Step (\d+) of 3: (.*)$", done.stderr, flags=re.M)
    assert {step: "held out" in line for step, line in told} == {"2": True, "3": False}
    # Random rows hardly move in three steps, and it says so.
    assert "rows will move by at most" in done.stderr
    assert "stay nearly as random as they are" in done.stderr
