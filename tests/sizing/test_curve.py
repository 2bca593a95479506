"""The curve of `size`: exact counts around the chosen memory, which is one of its points."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from engram import SizeOptions, size
from engram.sizing.counts import count_params
from engram.sizing.curve import size_curve
from support.hashed_statistics import write_statistics


@pytest.mark.parametrize("options", [{}, {"budget": 10**9}, {"k": 5.0}, {"rows": 1001}])
def test_points_are_exact_and_the_chosen_one_is_among_them(options):
    sizing = size("gpt2", SizeOptions(**options))
    curve = size_curve(sizing)
    assert [point.k for point in curve] == sorted({point.k for point in curve})
    (chosen,) = (point for point in curve if point.is_chosen)
    assert chosen.total_params == sizing.counts.total_params
    assert chosen.slack_params == sizing.slack_params
    for point in curve:
        rows = round(point.k * sizing.config.engram_vocab_size)
        counts = count_params(replace(sizing.config, engram_table_size=[rows, rows]))
        assert (point.table_params, point.total_params) == (
            counts.table_params,
            counts.total_params,
        )
        if sizing.budget_params is not None:
            assert point.slack_params == sizing.budget_params - counts.total_params
            assert (point.slack_params >= 0) == (point.k <= chosen.k)


def test_the_smallest_and_orders_of_several_sizes(tmp_path):
    smallest = size_curve(size("gpt2", SizeOptions(rows=16)))
    assert smallest[0].is_chosen
    assert len(smallest) > 1
    file = write_statistics(tmp_path / "stats.json")
    sizing = size("gpt2", SizeOptions(corpus=str(file)))
    assert len(set(sizing.config.engram_table_size)) == 2
    curve = size_curve(sizing)
    assert sum(point.is_chosen for point in curve) == 1
    mean = sum(sizing.config.engram_table_size) / 2 / sizing.config.engram_vocab_size
    assert next(point.k for point in curve if point.is_chosen) == mean
    json.dumps([point.to_dict() for point in curve], allow_nan=False)
