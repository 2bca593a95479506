"""Bytes by part, place and optimiser, against published numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

import engram
from engram.backbone import load_backbone
from engram.config.templates import load_template
from engram.errors import UsageError
from engram.sizing.counts import count_params
from engram.sizing.placement import memory_use
from engram.sizing.run_options import ReportOptions
from engram.sizing.weights import base_weights, config_weights, total_of

GIB = 2**30


def use_of(name, dtype=None, **options):
    config = load_template(name)
    weights = config_weights(count_params(config), config.stored_dtype(asked=dtype))
    return memory_use(weights, ReportOptions(**options))


def constants(use):
    return total_of(use.weights, "constants")[1]


def row(use, part):
    return next(item for item in use.rows if item.part == part)


@pytest.mark.parametrize(
    ("name", "dtype", "gib"),
    [
        ("engram-27b", "bf16", 10.79),
        ("engram-40b", "bf16", 34.52),
        ("deepseek-v4.1-flash", None, 188.83),
        ("qwen3.8-flash-next", "bf16", 95.37),
    ],
)
def test_table_bytes_as_published(name, dtype, gib):
    assert round(total_of(use_of(name, dtype).weights, "table")[1] / GIB, 2) == gib


@pytest.mark.parametrize(("ranks", "gib"), [(1, 188.83), (2, 94.42), (4, 47.21)])
def test_a_ranks_part_of_the_v41_tables(ranks, gib):
    use = use_of("deepseek-v4.1-flash", tp=ranks)
    tables = [item for item in use.rows if item.part.endswith(".table")]
    assert sum(item.size_bytes for item in tables) == 202_758_032_400
    assert round(sum(item.rank_bytes for item in tables) / GIB, 2) == pytest.approx(gib, abs=0.011)
    rows = [384_006_168, 384_016_682]
    assert [item.rank_bytes for item in tables] == [-(-count // ranks) * 264 for count in rows]


def test_adam_is_16_bytes_a_parameter_in_bf16_and_in_float32():
    for dtype in ("bfloat16", "float32"):
        use = use_of("engram-27b", dtype, mode="training")
        tables = [row(use, "table gradients"), row(use, "table optimizer state")]
        size = total_of(use.weights, "table")[1] + sum(item.size_bytes for item in tables)
        assert size == 16 * 5_792_338_560
        assert {item.kind for item in tables} == {"nominal"}
        params = count_params(load_template("engram-27b")).total_params
        assert use.total_bytes == 16 * params + constants(use)
    assert round(size / GIB, 1) == 86.3


@pytest.mark.parametrize(
    ("optimizer", "per_param"), [("sgd", 2 + 2 + 4), ("momentum", 2 + 2 + 4 + 4), ("adam", 16)]
)
def test_dense_optimisers(optimizer, per_param):
    use = use_of("gpt2", "bf16", mode="training", optimizer=optimizer)
    params = count_params(load_template("gpt2")).total_params
    assert use.total_bytes == per_param * params + constants(use)


@pytest.mark.parametrize(("name", "gib"), [("engram-27b", 0.27), ("deepseek-v4.1-flash", 2.86)])
def test_rowwise_adagrad_is_one_value_a_row(name, gib):
    use = use_of(name, mode="training", optimizer="rowwise-adagrad")
    state = row(use, "table optimizer state")
    assert state.size_bytes == 4 * count_params(load_template(name)).rows
    assert round(state.size_bytes / GIB, 2) == gib
    assert row(use, "dense optimizer state").size_bytes > 0


@pytest.mark.parametrize(("optimizer", "values"), [("sparse-adam", 2), ("sparse-momentum", 1)])
def test_state_of_16_bit_rows_is_float32(optimizer, values):
    use = use_of("engram-27b", "bf16", mode="training", optimizer=optimizer)
    state = row(use, "table optimizer state")
    assert (state.size_bytes, state.kind) == (values * 4 * 5_792_338_560, "exact")
    wide = use_of("engram-27b", "float64", mode="training", optimizer=optimizer)
    assert row(wide, "table optimizer state").size_bytes == 2 * state.size_bytes


def test_sparse_gradients_are_what_a_step_touches():
    options = {"mode": "training", "optimizer": "rowwise-adagrad"}
    use = use_of("engram-27b", "bf16", context=50, batch=2, **options)
    gradients = row(use, "table gradients")
    assert gradients.size_bytes == 2 * 100 * 16 * (80 * 4 + 8)
    assert gradients.kind == "estimated"
    assert any("100 tokens a step" in text for text in use.assumptions)
    every_row = use_of("gpt2", "bf16", context=10**9, **options)
    rows = count_params(load_template("gpt2")).rows
    assert row(every_row, "table gradients").size_bytes == rows * (64 * 4 + 8)


def test_quantised_rows_are_trained_in_bfloat16():
    use = use_of("deepseek-v4.1-flash", mode="training", optimizer="rowwise-adagrad")
    assert total_of(use.weights, "table")[1] == 2 * 196_613_849_600
    assert any("trained in bfloat16" in text for text in use.assumptions)


@pytest.mark.parametrize("place", ["gpu", "cpu", "disk"])
def test_tables_are_where_they_are_put(place):
    use = use_of("engram-27b", "bf16", tables=place, device_memory=2**30)
    tables, dense = (total_of(use.weights, group)[1] for group in ("table", "dense"))
    beside = dense + constants(use) if place == "gpu" else 0
    assert use.rank_bytes(place) == tables + beside
    # Of RAM and disk nobody gave the size.
    assert use.fits is (False if place == "gpu" else None)
    if place == "cpu":
        sized = {"device_memory": 2**30, "host_memory": 2**40}
        assert use_of("engram-27b", "bf16", tables=place, **sized).fits is True
    assert sum(use.rank_bytes(home) for home in ("gpu", "cpu", "disk")) == use.total_bytes


def test_state_of_the_tables_goes_where_they_are():
    use = use_of("engram-27b", "bf16", mode="training", tables="cpu")
    assert use.rank_bytes("cpu") == 16 * 5_792_338_560
    for optimizer in ("adam", "momentum", "sgd"):
        with pytest.raises(UsageError, match=f"cannot be trained with {optimizer}") as caught:
            use_of("engram-27b", mode="training", tables="disk", optimizer=optimizer)
        assert "rowwise-adagrad, rowwise-rmsprop, sparse-adam, sparse-momentum" in caught.value.hint


def test_tables_are_trained_on_disk_with_their_state():
    training = {"mode": "training", "optimizer": "sparse-adam", "tables": "disk"}
    use = use_of("engram-27b", "bf16", **training)
    params, rows = 5_792_338_560, count_params(load_template("engram-27b")).rows
    lines = {(it.part, it.place): (it.size_bytes, it.kind) for it in use.rows if it.is_table}
    bitmaps = 3 * sum(-(-table.rows // 8) for table in use.weights if table.rows)
    assert lines["table optimizer state", "disk"] == (8 * params, "exact")
    assert lines["table bitmaps", "cpu"] == (bitmaps, "exact")
    assert lines["table shadow index", "cpu"] == (3 * 16 * rows, "estimated")
    assert lines["table gradients", "cpu"][1] == "estimated"
    # Nobody said how often it saves: all rows and their state may wait in the shadow files.
    shadow, kind = lines["table shadow", "disk"]
    changed = 10 * params + 3 * 8 * rows
    assert changed <= shadow < changed + 12 * 4096
    assert kind == "estimated"
    # Rows of 160 bytes and two of 320, and for each of them its number.
    often = use_of("engram-27b", "bf16", batch=1, context=50, save_every=3, **training)
    changed = 2 * 3 * 50 * 16
    shadow = row(often, "table shadow").size_bytes - changed * (160 + 2 * 320 + 3 * 8)
    assert 0 <= shadow < 12 * 4096
    assert row(often, "table shadow index").size_bytes == 3 * 16 * changed
    assert any("3 steps" in note for note in often.assumptions)
    assert any("--save-every" in note for note in use.assumptions)
    halved = use_of("engram-27b", "bf16", tp=2, **training)
    assert halved.rank_bytes("disk") == pytest.approx(use.rank_bytes("disk") / 2, rel=1e-6)
    assert rows == sum(table.rows for table in use.weights)


def test_fits_is_judged_to_the_byte():
    needed = use_of("gpt2").total_bytes
    assert use_of("gpt2").fits is None
    assert use_of("gpt2", device_memory=needed).fits is True
    assert use_of("gpt2", device_memory=needed - 1).fits is False


def test_base_model_is_counted_and_may_be_frozen():
    config, gpt2 = load_template("gpt2"), load_backbone("gpt2")
    base = base_weights(gpt2)
    assert (base.params, base.size_bytes, base.kind) == (gpt2.params, 4 * gpt2.params, "nominal")
    weights = [*config_weights(count_params(config), config.stored_dtype(asked="float32")), base]
    options = ReportOptions(mode="training")
    trained = memory_use(weights, options)
    frozen = memory_use(weights, replace(options, train="memory"))
    assert trained.total_bytes - frozen.total_bytes == 12 * gpt2.params
    shared = memory_use(weights, replace(options, tp=3))
    assert row(shared, "base").rank_bytes == -(-base.size_bytes // 3)


def test_dense_parts_of_quantised_tables_are_bfloat16():
    config = load_template("gpt2")
    names = ("fp8", "int8", "bf16", "fp32")
    assert [config.stored_dtype(asked=name).around for name in names] == [
        "bfloat16",
        "bfloat16",
        "bfloat16",
        "float32",
    ]
    kinds = {part.group: part.kind for part in use_of("deepseek-v4.1-flash").weights}
    assert kinds == {"table": "exact", "dense": "nominal", "constants": "exact"}


@pytest.mark.parametrize(
    "options", [{"tp": -1}, {"batch": 0}, {"context": 0}, {"tp": 0, "tables": "gpu"}]
)
def test_wrong_numbers(options):
    with pytest.raises(UsageError):
        use_of("gpt2", **options)


def test_a_frozen_base_keeps_its_dtype():
    """A quantised base that is not trained is not cast, and gets no gradients."""
    base = replace(load_backbone("gpt2"), dtype="fp8")
    weights = [base_weights(base)]
    inference = memory_use(weights, ReportOptions())
    for train in ("memory", "lora"):
        use = memory_use(weights, ReportOptions(mode="training", train=train))
        assert row(use, "base") == row(inference, "base")
        assert not any("are trained in bfloat16" in note for note in use.assumptions)
    trained = memory_use(weights, ReportOptions(mode="training"))
    assert row(trained, "base").size_bytes == 2 * base.params


def test_stated_bytes_of_a_base_stand_for_those_of_its_config():
    base = load_backbone("gpt2")
    use = memory_use([base_weights(base)], ReportOptions(base_bytes=10**8), backbone=base)
    assert [(it.part, it.size_bytes) for it in use.rows if it.kind == "nominal"] == [
        ("base", 10**8)
    ]
    assert row(use, "base").params == base.params


def test_bytes_of_a_base_do_not_tell_what_its_training_takes():
    with pytest.raises(UsageError, match="--base-bytes"):
        ReportOptions(mode="training", base_bytes=10**9)
    found = engram.report("gpt2", options=ReportOptions(base_bytes=10**9)).to_dict()
    assert found["training"] == []
    use = use_of("gpt2", mode="training", train="lora", base_bytes=10**9)
    assert any(note.startswith("not counted: adapters") for note in use.assumptions)
