"""The three questions of a memory, asked of a real checkpoint on real text (`make real`)."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from engram.evaluation import DepthOptions, EvalOptions, evaluate, measure_depth, read_gates
from engram.training import TrainOptions, train

pytestmark = pytest.mark.real

SENTENCE = "Only Alexander the Great could tame the horse Bucephalus."


@pytest.fixture(scope="module")
def text(real_assets):
    return real_assets / "foldoc.txt"


@pytest.fixture(scope="module")
def trained(real_assets, text, tmp_path_factory):
    """A memory of SmolLM2-135M that read 2,048 tokens of a dictionary."""
    folder = tmp_path_factory.mktemp("real") / "trained"
    options = TrainOptions(
        steps=8, batch=2, context=128, held_out=0.001, evaluate_every=0, save_every=8
    )
    base = real_assets / "smollm2-135m"
    return train(base, folder, text, config="smollm2", options=options, link=True)


@pytest.mark.filterwarnings("ignore:.*trust_remote_code.*")
def test_losses_equal_those_of_an_independent_script(real_assets, trained, text):
    found = evaluate(trained.output, text, seen=text, options=EvalOptions(bootstrap=300))
    script = runpy.run_path(str(Path(__file__).parent / "independent_eval.py"))
    held_out = trained.output / "engram_held_out.json"
    base = real_assets / "smollm2-135m"
    for run, folder in {"on": trained.output, "off": base}.items():
        expected = script["independent_losses"](folder, text, 128, held_out)
        for name in ("tokens", "bytes"):
            assert found.losses.sizes[name] == expected.pop(name)
        assert found.to_dict()["runs"][run] == pytest.approx(expected, rel=1e-6)
    assert found.split == "held_out"
    assert found.losses.minus("off").high < -0.02
    assert found.losses.minus("permuted").nats < 0
    assert [layer.layer_id for layer in found.layers] == [1, 15]


def test_gates_are_given_at_every_token(trained):
    found = read_gates(trained.output, SENTENCE)
    assert found.text is not None
    assert found.text.tokens.text == SENTENCE
    gates = found.text.readings.gates
    assert gates.shape == (len(found.text.tokens.ids), 2, 1)
    assert np.all((gates > 0) & (gates < 1))


def test_both_models_end_at_their_own_prediction(trained, text):
    found = measure_depth(trained.output, text, options=DepthOptions(tokens=256, context=128))
    for run in ("on", "base"):
        assert len(found.lens[run]) == 30
        assert found.lens[run][-1] == pytest.approx(0, abs=1e-6)
        assert found.lens[run][0] > 1
