"""LongCat, Gemma, the reference demo and adapters: recognised, reported, verified, broken."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3nTextConfig

from engram.checkpoints.published.longcat import table_rows
from engram.checkpoints.published.recognise import families, find_family, recognise
from engram.checkpoints.read.inspect import inspect_checkpoint
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.checkpoints.verify.verify import verify
from engram.errors import ConfigError, CorruptFileError, InputError, MissingFileError
from engram.sizing.weights import total_of
from support import sparse_folder, tiny
from support.checked import failed, verdicts
from support.cli import run
from support.paths import BPE, GOLDEN
from support.qwen import qwen_release
from support.tiny import params_of

PLE = "model.layers.{}.ple.ple_embedding."

# LongCat and Gemma: other kinds of memory.


def longcat(folder, flat=False, **changes):
    """LongCat-Flash-Lite's tables over sparse files."""
    names = ("oe_embed_tokens{}", "oe_embed_proj{}")
    if not flat:
        names = ("ngram_embeddings.embedders.{}", "ngram_embeddings.post_projs.{}")
    tensors = {"model.embed_tokens.weight": ("BF16", (131072, 3072))}
    for i, rows in enumerate(table_rows(131072, 78, 4, 4)):
        tensors[f"model.{names[0].format(i)}.weight"] = ("BF16", (rows, 256))
        tensors[f"model.{names[1].format(i)}.weight"] = ("BF16", (3072, 256))
    config = {
        **{"model_type": "longcat_flash_ngram", "emb_neighbor_num": 4, "emb_split_num": 4},
        **{"ngram_vocab_size_ratio": 78, "vocab_size": 131072, "hidden_size": 3072, **changes},
    }
    return sparse_folder.write(folder, config, {"model-00001-of-00001.safetensors": tensors})


@pytest.mark.parametrize("flat", [False, True])
def test_longcat(tmp_path, flat):
    folder = longcat(tmp_path / "longcat", flat)
    assert failed(folder) == {}
    report = run("report", folder, "--json").json()
    (layer,) = report["layers"]
    assert (layer["layer_id"], layer["rows"]) == (None, 122_683_536)
    assert report["totals"]["table_params"] == 31_406_985_216
    assert report["totals"]["table_bytes"] == 62_813_970_432
    assert report["totals"]["dense_params"] == 12 * 3072 * 256
    assert report["reads"]["rows_per_token"] == 12
    assert report["reads"]["bytes_per_token"] == 12 * 512
    shown = run("report", folder).ended().stdout
    assert "12 tables" in shown or "table.11" in shown


def test_longcat_with_a_vocabulary_of_more_than_text(tmp_path):
    names = {"vocab_size": 282_624, "text_vocab_size": 131_072}
    assert failed(longcat(tmp_path / "next", **names)) == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ngram_vocab_size_ratio": 77}, "embedders.0.weight: [10,223,617 x 256], and the config"),
        ({"emb_split_num": 5}, "embedders.12.weight is missing"),
        ({"emb_neighbor_num": 3}, "is not wired"),
        ({"hidden_size": 6144}, "calls for [10,223,617 x 512]"),
    ],
)
def test_longcat_and_its_config_disagree(tmp_path, changes, words):
    problems = failed(longcat(tmp_path / "longcat", **changes))
    assert "tensors" in problems
    full = "; ".join(problems.values())
    assert words in full or "more)" in full


def test_gemma_as_transformers_saves_it(tmp_path):
    config = Gemma3nTextConfig(
        vocab_size=64,
        vocab_size_per_layer_input=48,
        hidden_size=16,
        hidden_size_per_layer_input=4,
        num_hidden_layers=6,
        intermediate_size=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        laurel_rank=4,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0] * 6,
        layer_types=["full_attention"] * 6,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    assert failed(tmp_path) == {}
    found = inspect_checkpoint(tmp_path)
    assert (found.layout, found.config) == ("gemma_ple", None)
    assert total_of(found.weights, "table")[0] == 48 * 6 * 4
    assert total_of(found.weights, "dense")[0] == params_of(model, "per_layer") - 48 * 6 * 4
    total = sum(total_of(found.weights, group)[0] for group in ("table", "dense", "base"))
    stored = load_file(tmp_path / "model.safetensors").values()
    assert total == sum(value.numel() for value in stored)
    report = run("report", tmp_path, "--json").json()
    assert report["reads"]["rows_per_token"] == 1
    assert report["layers"][0]["rows"] == 48
    assert "per_layer_input_gate (6 layers)" in run("report", tmp_path).ended().stdout
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["hidden_size_per_layer_input"] = 8
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert "embed_tokens_per_layer.weight: [48 x 24]" in failed(tmp_path)["tensors"]


def test_gemma_of_true_size(tmp_path):
    tensors = {
        "model.language_model.embed_tokens_per_layer.weight": ("BF16", (262144, 8960)),
        "model.language_model.per_layer_model_projection.weight": ("BF16", (8960, 2048)),
        "model.language_model.per_layer_projection_norm.weight": ("BF16", (256,)),
    }
    for i in range(35):
        layer = f"model.language_model.layers.{i}."
        tensors[layer + "per_layer_input_gate.weight"] = ("BF16", (256, 2048))
        tensors[layer + "per_layer_projection.weight"] = ("BF16", (2048, 256))
        tensors[layer + "post_per_layer_input_norm.weight"] = ("BF16", (2048,))
    config = {
        "model_type": "gemma3n",
        "text_config": {
            **{"hidden_size": 2048, "num_hidden_layers": 35},
            **{"hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262144},
        },
    }
    folder = sparse_folder.write(tmp_path, config, {"model-00001-of-00001.safetensors": tensors})
    assert failed(folder) == {}
    report = run("report", folder, "--json").json()
    assert report["totals"]["table_params"] == 2_348_810_240
    assert report["reads"]["bytes_per_token"] == 17_920
    assert report["reads"]["disk_pages_per_token"]["least"] == 5


# The reference demo's state dict, and what attach wrote.


@pytest.fixture
def demo(tmp_path):
    tensors = load_file(GOLDEN / "demo_v1_forward_f32.safetensors")
    state = {n.removeprefix("state."): v for n, v in tensors.items() if n.startswith("state.")}

    def write(change=None, prefix="", name="demo.safetensors"):
        changed_state = {prefix + key: value.clone() for key, value in state.items()}
        if change is not None:
            change(changed_state)
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        save_file(changed_state, path)
        return path

    return write


def test_a_state_dict_of_the_demo(demo):
    for target in (demo(), demo(name="folder/any.safetensors").parent):
        checks = verdicts(target)
        assert failed(target) == {}
        assert {n for n, check in checks.items() if check.ok is None} == {"constants", "values"}
        found = inspect_checkpoint(target)
        assert (found.layout, found.kind) == ("demo", "released")
        assert total_of(found.weights, "table") == (498 * 4, 498 * 16)
        assert total_of(found.weights, "base") == (0, 0)
    report = run("report", demo(), "--json").json()
    assert report["layers"] == [
        {
            **{"layer_id": None, "rows": 498, "hash_rows": 498, "table_params": 1992},
            **{"dense_params": 5 * (16 * 16 + 16) + 2 * 4 * 16 + 64 * 4 + 64, "table_bytes": 7968},
        }
    ]
    assert run("verify", demo(), "--json").json()["ok"] is True


def test_a_state_dict_of_several_layers(demo):
    one = load_file(demo(prefix="layers.1.engram.", name="one.safetensors"))
    other = load_file(demo(prefix="layers.3.engram.", name="other.safetensors"))
    path = demo().with_name("both.safetensors")
    save_file({**one, **other}, path)
    assert list(inspect_checkpoint(path).hash_rows) == [1, 3]
    assert "same prime" in failed(path)["rows"]


@pytest.mark.parametrize(
    ("key", "value", "name", "words"),
    [
        ("multi_head_embedding.offsets", torch.tensor([0, 97, 199, 331]), "rows", "is not prime"),
        ("multi_head_embedding.offsets", torch.tensor([1, 97, 198, 329]), "rows", "begins with 1"),
        ("multi_head_embedding.embedding.weight", torch.ones(497, 4), "rows", "is not prime"),
        ("norm2.3.weight", None, "tensors", "norm2.3.weight is missing"),
        ("key_projs.1.weight", torch.ones(16, 12), "tensors", "key_projs.1.weight: [16 x 12]"),
        ("short_conv.conv.weight", torch.ones(48, 1, 4), "tensors", "calls for [64 x 1 x 4]"),
        ("multi_head_embedding.offsets", None, "config", "lacks multi_head_embedding"),
        (
            *("multi_head_embedding.offsets", torch.zeros(0, dtype=torch.int64)),
            *("config", "lacks multi_head_embedding"),
        ),
    ],
)
def test_a_broken_state_dict(demo, key, value, name, words):
    path = demo(lambda state: state.pop(key) if value is None else state.update({key: value}))
    assert words in failed(path)[name]


@pytest.mark.parametrize("name", ["key_projs.{}.weight", "{}.multi_head_embedding.offsets"])
def test_a_number_that_is_too_long_for_python_is_no_layer(demo, name):
    path = demo(lambda state: state.update({name.format("9" * 5000): torch.ones(3)}))
    assert failed(path) == {}
    run("verify", path).ended(0)


def test_a_torn_state_dict(demo):
    path = demo()
    path.write_bytes(path.read_bytes()[:-1])
    assert "is damaged" in failed(path)["files"]
    run("report", path).ended(3)


def test_adapters(tmp_path, tmp_path_factory):
    base, attached = tiny.family_folders("llama", tmp_path_factory)
    adapter = tiny.attached_model(base, tmp_path / "adapter", adapter=True)
    found, whole = inspect_checkpoint(adapter), inspect_checkpoint(attached)
    assert (found.kind, whole.kind) == ("adapter", "attached")
    assert found.weights == tuple(part for part in whole.weights if part.group != "base")
    assert failed(adapter) == {}
    checks = verdicts(adapter, tokenizer=str(BPE))
    assert checks["tokenizer"].ok is True
    assert checks["logits"].ok is None
    report = run("report", adapter, "--json").json()
    assert report["target_kind"] == "adapter"
    assert report["totals"]["base_params"] is None
    assert run("verify", adapter, "--json").json()["ok"] is True
    (adapter / "engram-00001-of-00001.safetensors").unlink()
    assert "engram-00001-of-00001.safetensors" in failed(adapter)["settings"]
    run("verify", adapter).ended(5)


def test_what_has_no_memory(tmp_path):
    base = tiny.base_model("gpt2", tmp_path / "gpt2")
    run("verify", base).ended(3)
    assert "a base model without a memory" in run("report", base).ended().stdout
    for command in ("report", "verify"):
        run(command, tmp_path / "nothing").ended(4)
    with pytest.raises(InputError, match="has no memory"):
        verify(base)
    with pytest.raises(MissingFileError, match="does not exist"):
        verify(tmp_path / "nothing")


def test_settings_that_make_no_sense(tmp_path):
    folder = qwen_release(tmp_path / "qwen", eos_token_id=None, heads_per_ngram="8")
    with pytest.raises(ConfigError, match="heads_per_ngram: '8' is not a whole number"):
        inspect_checkpoint(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CorruptFileError, match="not an object"):
        inspect_checkpoint(folder)


def test_families_do_not_take_each_other_for_their_own(qwen, tmp_path, demo):
    folders = {
        "demo": demo(),
        "deepseek_v41": sparse_folder.v41(tmp_path / "v41"),
        "qwen_ple": qwen[0],
        "longcat_ngram": longcat(tmp_path / "longcat"),
    }
    assert [family.name for family in families()] == [*folders, "gemma_ple"]
    for layout, folder in folders.items():
        assert recognise(open_checkpoint(folder).files).family.name == layout
        if folder.is_dir():  # the names alone say it, too
            assert find_family(replace(open_checkpoint(folder).files, config={})).name == layout


@pytest.mark.parametrize(
    "quantization",
    [
        *("fp8", [1], 3, {"engram_block_size": "32"}),
        *({"weight_block_size": block} for block in (32, [32], [0, 32])),
    ],
)
def test_a_quantisation_that_makes_no_sense(tmp_path, quantization):
    config = {**sparse_folder.V41_CONFIG, "quantization_config": quantization}
    folder = sparse_folder.v41(tmp_path)
    (folder / "config.json").write_text(json.dumps(config))
    assert "quantization_config" in failed(folder)["config"]


@pytest.mark.parametrize("shape", [(), (10,), (10, 0), (0, 256), (2, 3, 4)])
def test_a_table_that_is_no_matrix_of_rows(tmp_path, shape):
    shards = {"model-00001-of-00002.safetensors": sparse_folder.v41_layer(1, 384006168)}
    shards["model-00001-of-00002.safetensors"]["layers.1.engram.embed.weight"] = ("BF16", shape)
    shards["model-00002-of-00002.safetensors"] = sparse_folder.v41_layer(14, 384016682)
    folder = sparse_folder.write(tmp_path, sparse_folder.V41_CONFIG, shards)
    with pytest.raises(CorruptFileError, match=r"layers\.1\.table is not a table of rows"):
        inspect_checkpoint(folder)
    assert "layers.1.engram.embed.weight" in failed(folder)["tensors"]
    run("verify", folder).ended(5)
