"""Experts traded for a memory: the paper's points, and counts of what comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import pytest
import yaml

import engram
from engram.backbone import Backbone, load_backbone
from engram.backbone.families import ALIASES
from engram.backbone.find_backbone import read_catalogue
from engram.backbone.mixture import Mixture
from engram.config.config_file import read_config
from engram.errors import DoesNotFitError, InputError, UsageError
from engram.sizing.allocation import split_params
from engram.sizing.budget import count_rows
from engram.sizing.expert_split import at_rho, keeping
from support import sparse_folder

MIXTURE = Mixture(
    experts=72, active=6, shared=2, layers=1, expert_params=1000, router_params=7, keys=(("e",),)
)
TINY = {
    "model_type": "qwen3_moe",
    **{"hidden_size": 32, "num_hidden_layers": 4, "vocab_size": 64, "intermediate_size": 64},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "moe_intermediate_size": 128},
    **{"num_experts": 24, "num_experts_per_tok": 4, "eos_token_id": 3},
}


@pytest.mark.parametrize(
    ("experts", "rho", "kept", "printed"),
    [(72, "0.75", 55, 0.7424), (106, "0.40", 46, 0.400), (99, "0.40", 43, 0.3978)],
)
def test_the_papers_experts(experts, rho, kept, printed):
    mixture = replace(MIXTURE, experts=experts)
    found = at_rho(mixture, Fraction(rho))
    assert found.experts == kept
    assert round(float(found.split.rho), 4) == printed
    assert found.split.rho == Fraction(kept - 6, experts - 6)
    assert keeping(mixture, kept).split == found.split
    # By the law, from the same share of the same sparse parameters.
    law = split_params(1000 * experts + 5, 1000 * 6 + 5, found.split.rho)
    assert (found.split.moe_params, found.split.engram_params) == (
        law.moe_params,
        law.engram_params,
    )
    assert found.freed_params == 1007 * (experts - kept)


def test_every_rho_gets_the_nearest_experts():
    for rho in (Fraction(percent, 100) for percent in range(101)):
        kept = at_rho(MIXTURE, rho).experts
        distances = {each: abs(Fraction(each - 6, 66) - rho) for each in range(6, 73)}
        assert distances[kept] == min(distances.values())
    in_groups = replace(MIXTURE, active=8, groups=8, used_groups=4)
    assert {at_rho(in_groups, Fraction(i, 50)).experts for i in range(51)} == {*range(16, 73, 8)}


def changed_config(config, settings):
    """Put settings that change into a config, those of its text model as well."""
    text = settings.get("text_config")
    nested = {"text_config": {**config["text_config"], **text}} if text else {}
    return {**config, **settings, **nested}


def check(found, config):
    """Count the changed base and the memory again, and compare them with the base."""
    base, sizing = found.base, found.sizing
    changed = Backbone.from_config(changed_config(config, found.base_settings), "changed", "here")
    assert changed.mixture.experts == found.chosen.experts
    assert base.params - changed.params == found.chosen.freed_params
    memory = count_rows(sizing.config, sizing.config.engram_table_size)
    assert changed.params + memory.total_params == found.total_params <= base.params
    # One more row in every head is more than the base has.
    more = sizing.plan.rows_per_order + 1
    assert changed.params + count_rows(sizing.config, more).total_params > base.params
    assert found.to_dict()["memory"]["slack_params"] == base.params - found.total_params
    token = found.token
    assert token.base_params - token.router_params == changed.active_params
    dense = memory.dense_params
    reads = sizing.config.memory_width * len(sizing.config.layer_ids)
    assert token.params == changed.active_params + dense + reads
    assert token.more_flops == 2 * (changed.active_params + dense - base.active_params)


@pytest.mark.parametrize(
    ("name", "rho", "options", "experts"),
    [
        ("qwen3-30b-a3b", None, {}, 98),
        ("qwen3-30b-a3b", 0.4, {"layers": [1, 14, 30], "dim": 1280}, 56),
        ("mixtral-8x7b-v0.1", "0.8", {"heads": 4}, 7),
        ("deepseek-v3", Fraction(3, 4), {"dim": 1024, "max_ngram_size": 4}, 192),
        ("deepseek-v3", 0, {}, 16),
    ],
)
def test_whole_models_are_as_large_as_before(name, rho, options, experts):
    options = engram.SizeOptions(**options)
    found = engram.allocate_mixture(name, rho=rho, options=options)
    assert found.chosen.experts == experts
    check(found, read_catalogue()[found.base.name.lower()][1])
    points = {float(point.wanted_rho): point for point in found.points}
    assert list(points) == [round(1 - 0.05 * i, 2) for i in range(13)]
    assert points[1.0].freed_params == 0


def test_qwen3_by_hand():
    found = engram.allocate_mixture("qwen3-30b-a3b")
    expert = 3 * 2048 * 768
    assert found.chosen.freed_params == 30 * 48 * (expert + 2048)
    assert found.chosen.split.engram_params == 30 * 48 * expert
    assert found.mixture.idle_params == 120 * 48 * expert
    # Keys and values of a memory 1,024 wide with their biases, 3 norms and 4 taps, in 2 layers.
    assert found.token.dense_params == 2 * (2 * 1024 * 2048 + (2 + 3 + 4) * 2048)
    # All that a token is multiplied with: no part of the embedding.
    assert found.token.base_flops == 2 * (found.base.active_params - 151936 * 2048)


def folder_of(path, config):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        {**TINY, "num_local_experts": 24},
        {key: value for key, value in TINY.items() if key != "num_experts"},
        {"model_type": "some_vl", "text_config": TINY},
        {**TINY, "model_type": "deepseek_v3", "n_group": 1, "topk_group": 1},
        {**TINY, "model_type": "deepseek_v3", "n_group": None, "topk_group": None},
        {**TINY, "decoder_sparse_step": 2, "mlp_only_layers": [1]},
    ],
    ids=["own", "two keys", "default", "text part", "groups of one", "no groups", "dense layers"],
)
def test_both_files_of_a_folders_model(tmp_path, config):
    folder = folder_of(tmp_path / "model", config)
    options = engram.SizeOptions(layers=[1], heads=2, dim=8)
    found = engram.allocate_mixture(folder, options=options)
    check(found, config)
    memory, base = found.write(tmp_path / "made" / "here")
    written = read_config(memory)
    assert written.engram_table_size == found.sizing.config.engram_table_size
    settings = yaml.safe_load(base.read_text())
    assert settings == found.base_settings
    experts = {*settings.get("text_config", settings).values()}
    assert experts == {found.chosen.experts}
    with pytest.raises(InputError, match=r"memory\.yaml is already there"):
        found.write(tmp_path / "made" / "here")
    memory.unlink()
    with pytest.raises(InputError, match=r"base\.yaml is already there"):
        found.write(tmp_path / "made" / "here")
    assert not memory.exists()
    found.write(tmp_path / "made" / "here", overwrite=True)
    with pytest.raises(InputError, match="not a folder"):
        found.write(base / "deeper")


@pytest.mark.parametrize("model_type", ["mixtral", "deepseek_v3", "qwen3_moe"])
def test_a_default_number_of_experts_changes_under_the_familys_own_key(model_type):
    transformers = pytest.importorskip("transformers")
    config = {key: TINY[key] for key in ("hidden_size", "num_hidden_layers", "vocab_size")}
    base = Backbone.from_config({**config, "model_type": model_type}, "base", "here")
    experts = base.mixture.experts
    settings = base.mixture.settings(experts // 2)
    for values, wanted in (({}, experts), (settings, experts // 2)):
        own = transformers.AutoConfig.for_model(model_type, **values).to_dict()
        stated = {own[key] for key in ("num_experts", *ALIASES["num_experts"]) if key in own}
        assert stated == {wanted}


def test_an_unknown_family_is_counted_from_its_weights(tmp_path):
    folder = folder_of(tmp_path / "model", {**TINY, "model_type": "unknown_moe"})
    tensors = {"embed": ("F32", (64, 32)), "head": ("F32", (64, 32))}
    for layer in range(4):
        tensors[f"layers.{layer}.mlp.router"] = ("F32", (24, 32))
        tensors |= {f"layers.{layer}.mlp.experts.{i}.w": ("F32", (32, 128)) for i in range(24)}
    sparse_folder.write_file(folder / "model.safetensors", tensors)
    base = load_backbone(folder)
    assert base.params - base.active_params == 20 * 4 * 32 * 128
    found = engram.allocate_mixture(
        base, experts_kept=20, options=engram.SizeOptions(layers=[1], heads=2, dim=8)
    )
    assert (found.mixture.layers, found.mixture.router_params) == (4, 0)
    assert found.chosen.freed_params == 4 * 4 * 32 * 128
    assert found.total_params <= base.params
    assert found.base_settings == {"num_experts": 20}


def test_what_cannot_be_traded(tmp_path):
    with pytest.raises(UsageError, match="is a dense model") as caught:
        engram.allocate_mixture("gpt2")
    assert "engram size --model openai-community/gpt2" in caught.value.hint
    every = folder_of(tmp_path / "every", {**TINY, "num_experts_per_tok": 24})
    with pytest.raises(UsageError, match="none can go"):
        engram.allocate_mixture(every)
    with pytest.raises(UsageError, match="follows from the experts"):
        engram.allocate_mixture("qwen3-30b-a3b", options=engram.SizeOptions(k=2))
    with pytest.raises(UsageError, match="exclude each other"):
        engram.allocate_mixture("qwen3-30b-a3b", rho=0.5, experts_kept=90)
    for kept in (0, 8, 100, 264):
        with pytest.raises(InputError, match="must be 16 to 256, a multiple of 8"):
            engram.allocate_mixture("deepseek-v3", experts_kept=kept)
    with pytest.raises(InputError, match=r"rho must be between 0 and 1, got 1\.5"):
        engram.allocate_mixture("qwen3-30b-a3b", rho=1.5)
    with pytest.raises(DoesNotFitError, match="No memory fits"):
        engram.allocate_mixture("qwen3-30b-a3b", rho=1)
