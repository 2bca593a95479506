"""Probes of layers: an untrained memory, one around a random table, and a trained one differ."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import engram
from engram.evaluation import EvalOptions, MemoryWatch, evaluate
from engram.evaluation.probes import GateCollector, start_rms
from engram.training.document_loss import cut_windows, read_windows
from support import tiny

SHORT = EvalOptions(bootstrap=20, context=24, tokens=600)


def layers_of(place, folder):
    return evaluate(folder, place.text, options=SHORT).layers


def test_untrained_random_and_trained_memories_differ(place, tmp_path):
    zero = tiny.attached_model(place.base, tmp_path / "zero", init="zero-table")
    untrained, empty = layers_of(place, place.attached), layers_of(place, zero)
    frozen = layers_of(place, place.trained("frozen", control="frozen-random"))
    trained = layers_of(place, place.trained("out"))
    for layers in (untrained, empty, frozen, trained):
        assert [it.layer_id for it in layers] == [1, 2]
        for it in layers:
            low, middle, high = it.gate_quartiles
            assert 0 < low <= middle <= high < 1
            # A quarter of the gates is in each of four ranges.
            least, most = (low + middle + high) / 4, (low + middle + high + 1) / 4
            assert least <= it.gate_mean <= most
    # A row of zeros still has the key that is the projection's bias.
    for it in (*untrained, *empty, *frozen, *trained):
        low, _, high = it.gate_quartiles
        assert 0 < low < high < 1
    # Neither adds anything; one has rows of its own, the other none.
    for it in (*untrained, *empty):
        assert it.write_norm == 0
        assert it.row_norm_over_start is None
    assert all(it.row_rms == pytest.approx(1, abs=0.05) for it in untrained)
    assert all(it.row_rms == 0 for it in empty)
    # Both add something; the rows of one have not changed.
    assert all(it.write_norm > 0.01 for it in (*frozen, *trained))
    assert all(it.row_norm_over_start == pytest.approx(1, abs=0.05) for it in frozen)
    assert all(it.row_norm_over_start > 1.1 for it in trained)


def test_a_memory_that_began_at_zero_has_no_ratio(place, tmp_path):
    zero = tiny.attached_model(place.base, tmp_path / "zero", init="zero-table")
    shutil.copyfile(place.trained("out") / "engram_training.json", zero / "engram_training.json")
    stated = json.loads((zero / "engram_training.json").read_text())
    stated["forecast"]["start_rms"] = 0.0
    assert start_rms(stated) == 0
    (zero / "engram_training.json").write_text(json.dumps(stated))
    assert all(it.row_norm_over_start is None for it in layers_of(place, zero))
    assert start_rms(None) is None
    assert start_rms({"steps": 3}) is None


def test_numbers_are_those_of_every_gate_that_predicts_a_counted_token(tmp_path_factory):
    model = tiny.randomise(engram.load(tiny.family_folders("deepseek_v4", tmp_path_factory)[1]))
    numbers = np.random.default_rng(0)
    documents = [numbers.integers(3, 500, size) for size in (30, 7, 2)]
    windows, gates = cut_windows(documents, 16), GateCollector()
    with MemoryWatch(model) as watch:
        for batch, _ in read_windows(model, windows, batch_tokens=40):
            gates.add(batch, watch.readings)
    found = gates.probes(model, {"forecast": {"start_rms": 2.0}}, 0)
    kept = {layer_id: ([], []) for layer_id in (1, 2)}
    for window in windows:
        ids = torch.from_numpy(window.ids)[None]
        with MemoryWatch(model) as watch, torch.no_grad():
            model(input_ids=ids)
        for layer_id, reading in watch.readings.items():
            kept[layer_id][0].append(reading.gates[0, :-1].reshape(-1))
            kept[layer_id][1].append(reading.relative_writes[0, :-1].reshape(-1))
    for probe in found:
        its_gates, writes = (torch.cat(it).numpy() for it in kept[probe.layer_id])
        assert len(its_gates) == 4 * (sum(map(len, documents)) - len(windows))
        expected = np.quantile(its_gates, [0.25, 0.5, 0.75])
        assert probe.gate_quartiles == pytest.approx(expected, rel=1e-4)
        assert probe.gate_mean == pytest.approx(its_gates.mean(), rel=1e-4)
        assert probe.write_norm == pytest.approx(np.median(writes), rel=1e-4)
        assert probe.row_norm_over_start == probe.row_rms / 2
