"""A memory that is sized while it is attached: its config is the planner's, in the folder."""

from __future__ import annotations

import pytest

import engram
from support import tiny
from support.cli import run
from support.paths import TOKENIZERS


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sized") / "model"
    tiny.base_model("llama", folder, sizes={"intermediate_size": 4096})
    return folder


@pytest.mark.parametrize("options", [None, {"share": 0.1}, {"k": 3}, {"layers": [0], "rows": 999}])
def test_what_is_attached_is_what_size_finds(base, tmp_path, options):
    options = None if options is None else engram.SizeOptions(**options)
    attached = engram.attach(base, options, tmp_path / "out", verify=True)
    assert attached.max_logit_difference == 0
    sized = engram.size(base, options)
    assert attached.plan.added_params == sized.counts.total_params
    written = engram.load_config(tmp_path / "out" / "memory.yaml")
    assert written.engram_table_size == sized.config.engram_table_size
    assert written.layer_ids == sized.config.layer_ids
    assert engram.verify(tmp_path / "out").ok
    # The file describes the same memory, for another base or another place.
    again = engram.attach(base, tmp_path / "out" / "memory.yaml", tmp_path / "again")
    assert again.plan.addresses.fingerprint == attached.plan.addresses.fingerprint


def test_bytes_are_those_of_the_dtype_that_is_written(base, tmp_path):
    most = 1_000_000
    engram.attach(base, engram.SizeOptions(memory=most), tmp_path / "out", dtype="bfloat16")
    weights = engram.report(tmp_path / "out").use.weights
    taken = sum(part.size_bytes for part in weights if part.group != "base")
    assert 0.98 * most < taken <= most


def test_it_is_sized_for_the_tokenizer_that_is_given(base, tmp_path):
    attached = engram.attach(base, None, tmp_path / "out", tokenizer=TOKENIZERS / "local_word")
    assert attached.plan.config.engram_vocab_size == 23


def test_detach_removes_it(base, tmp_path):
    engram.attach(base, None, tmp_path / "out")
    engram.detach(tmp_path / "out", tmp_path / "back")
    names = {path.name for path in base.iterdir()}
    assert {path.name for path in (tmp_path / "back").iterdir()} == names


def test_a_config_and_a_size_exclude_each_other(base, tmp_path):
    words = ["attach", base, "-c", "tiny", "--share", "0.1", "-o", tmp_path / "out"]
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "Leave one of them out" in err
    code, _, err = run("attach", base, "--share", "2", "-o", tmp_path / "out")
    assert (code, "'--share': share must be between 0 and 1" in err) == (2, True)
    code, _, err = run("attach", base, "--budget", "10", "-o", tmp_path / "out")
    assert (code, "No memory fits" in err) == (5, True)
    assert not (tmp_path / "out").exists()
