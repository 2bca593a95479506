"""Laws of numbers with units and of config files: what is written is read back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engram.config.config_file import dump_config, read_config
from engram.config.strict_yaml import parse_mapping
from engram.config.templates import load_template
from engram.storage.dtypes import DTYPE_ALIASES, dtype_name
from engram.units import (
    format_bytes,
    format_count,
    parse_bytes,
    parse_count,
)

law = settings(deadline=None, max_examples=200)
KEYS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
SCALARS = (
    st.integers(-(2**70), 2**70)
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\ufeff"))
)
VALUES = SCALARS | st.lists(SCALARS, max_size=4) | st.dictionaries(KEYS, SCALARS, max_size=3)


@law
@given(count=st.integers(0, 2**63 - 1))
def test_counts_are_read_back(count):
    assert parse_count(count) == parse_count(f"{count:,}") == count
    assert parse_bytes(f"{count} B") == count
    # Four digits are shown, and a whole number of the unit's smallest step.
    shown = format_count(count)
    assert float(parse_count(shown)) == pytest.approx(count, rel=6e-4)


@law
@given(count=st.integers(0, 2**62), unit=st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_sizes_are_what_they_say(count, unit):
    factor = 1024 ** (1 + ["KiB", "MiB", "GiB", "TiB"].index(unit))
    small = count % 2**20
    assert parse_bytes(f"{small}{unit}") == small * factor
    number, _, shown = format_bytes(count).partition(" ")
    size = float(number) * {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}[shown]
    assert size == pytest.approx(count, rel=6e-3)


@given(name=st.sampled_from(sorted(DTYPE_ALIASES)), upper=st.booleans(), torch=st.booleans())
def test_dtype_names_settle(name, upper, torch):
    spelt = ("torch." if torch else "") + (name.upper() if upper and not torch else name)
    assert dtype_name(dtype_name(spelt)) == DTYPE_ALIASES[name]


@law
@given(values=st.dictionaries(KEYS, VALUES, min_size=1, max_size=5))
def test_json_is_read_as_it_was_written(values):
    found = parse_mapping(json.dumps(values))
    assert not found.problems
    assert found.values == values
    assert list(found.lines) == list(values)


@law
@given(values=st.dictionaries(KEYS, VALUES, min_size=1, max_size=5))
def test_yaml_of_another_writer_is_read_or_told(values):
    text = yaml.safe_dump(values, allow_unicode=True)
    found = parse_mapping(text)
    if not found.problems:
        assert set(found.values) == set(values)
    assert all(line <= text.count("\n") + 1 for line in found.lines.values())


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**31),
    layers=st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True),
    heads=st.sampled_from([1, 2, 4, 8]),
    rows=st.integers(100, 10**6),
    eps=st.sampled_from([1e-20, 1e-6, 0.5]),
)
def test_a_config_is_read_back_from_its_file(tmp_path, seed, layers, heads, rows, eps):
    config = replace(
        load_template("tiny"),
        seed=seed,
        layer_ids=layers,
        n_head_per_ngram=heads,
        engram_table_size=[rows * heads, (rows + 1) * heads],
        eps=eps,
    )
    path = tmp_path / "memory.yaml"
    path.write_text(dump_config(config))
    assert read_config(path) == config
