"""A memory of a real checkpoint, trained on real text."""

import pytest

import engram
from engram.training import TrainOptions, train


@pytest.mark.real
def test_a_memory_of_smollm2_learns_a_dictionary(real_assets, tmp_path):
    options = TrainOptions(
        steps=8, batch=2, context=128, held_out=0.002, evaluate_every=0, save_every=4
    )
    base, text = real_assets / "smollm2-135m", real_assets / "foldoc.txt"
    done = train(base, tmp_path / "out", text, config="smollm2", options=options, link=True)
    assert done.difference.high < -0.02
    assert done.rows_touched > 10_000
    assert engram.verify(done.output).ok
    weights = "model-00001-of-00001.safetensors"
    assert (done.output / weights).read_bytes() == (base / "model.safetensors").read_bytes()
