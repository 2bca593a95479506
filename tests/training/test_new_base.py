"""Bases with random weights from a YAML file, and bases that pay for their memory."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import engram
from engram.config.config_file import read_config
from engram.errors import ConfigError, DoesNotFitError, InputError, LayoutError, MissingFileError
from engram.training import equal_params, read_new_base, scale_note, write_new_base
from support import tiny
from support.paths import BPE, REPOSITORY

EXAMPLE, MEMORY = (
    REPOSITORY / "examples" / "tiny-llama.yaml",
    REPOSITORY / "examples" / "tiny-llama-memory.yaml",
)
IDS = torch.randint(3, tiny.VOCAB, (2, 17), generator=torch.Generator().manual_seed(5))


def described(path, model_type="llama", own="", **settings):
    """Write a description with the tiny sizes of a family, and return its path."""
    sizes = {**tiny.SIZES[model_type], **settings}
    lines = [f"model_type: {model_type}", f"tokenizer: {BPE}", own]
    lines += [f"{key}: {value}" for key, value in sizes.items() if value is not None]
    path.write_text("\n".join(lines) + "\n")
    return path


def parameters(model):
    return sum(weight.numel() for weight in model.parameters())


def test_the_example_becomes_a_base_that_attach_takes(tmp_path):
    spec, memory = read_new_base(EXAMPLE), read_config(MEMORY)
    base = write_new_base(spec, tmp_path / "base")
    attached = engram.attach(base, MEMORY, tmp_path / "attached", init="paper", verify=True)
    assert attached.max_logit_difference > 0
    model = engram.load(tmp_path / "attached")
    model.train()(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    assert len(AutoTokenizer.from_pretrained(base)) == spec.tokenizer.vocab_size
    assert AutoConfig.from_pretrained(base).eos_token_id == spec.tokenizer.eos_id

    equal = equal_params(spec, memory)
    smaller = write_new_base(equal.spec, tmp_path / "smaller")
    engram.attach(smaller, memory, tmp_path / "equal")
    whole = parameters(AutoModelForCausalLM.from_pretrained(base))
    both = parameters(engram.load(tmp_path / "equal"))
    assert whole - both == equal.missing_params
    assert 0 <= equal.missing_params < 3 * 3 * spec.settings["hidden_size"]
    assert 0 < equal.after < equal.before == 768
    assert f"{equal.missing_params:,} below the {whole:,} of the base alone" in str(equal)
    assert equal.to_dict()["kept_params"] + equal.to_dict()["memory_params"] == both


def test_weights_follow_from_the_seed_alone(tmp_path):
    spec = read_new_base(described(tmp_path / "m.yaml", own="seed: 4"))
    torch.randn(3)
    before = torch.random.get_rng_state()
    folders = [write_new_base(spec, tmp_path / name) for name in ("a", "b")]
    assert torch.equal(torch.random.get_rng_state(), before)
    other = write_new_base(replace(spec, seed=5, dtype="bfloat16"), tmp_path / "c")
    same, again, changed = [
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto") for folder in (*folders, other)
    ]
    assert all(
        torch.equal(a, b) for a, b in zip(same.parameters(), again.parameters(), strict=True)
    )
    assert changed.dtype == torch.bfloat16
    embedding = changed.get_input_embeddings().weight.float()
    assert (embedding - same.get_input_embeddings().weight).abs().max() > 0.01


@pytest.mark.parametrize("model_type", ["gpt2", "qwen3_moe", "gpt_neox", "gemma3_text", "stablelm"])
def test_families(tmp_path, model_type):
    spec = read_new_base(described(tmp_path / "m.yaml", model_type))
    base = write_new_base(spec, tmp_path / "base")
    engram.attach(base, tiny.memory_config(), tmp_path / "attached", verify=True)
    config = AutoConfig.from_pretrained(base)
    assert (config.model_type, config.vocab_size, config.pad_token_id) == (model_type, 544, 2)


@pytest.mark.parametrize(
    ("model_type", "sizes", "key"),
    [
        ("gpt2", {"n_inner": None}, "n_inner"),
        ("gpt2", {"n_inner": 900}, "n_inner"),
        ("phi3", {"intermediate_size": 900}, "intermediate_size"),
        ("gemma2", {"intermediate_size": 900}, "intermediate_size"),
        ("gpt_neox", {"intermediate_size": 900}, "intermediate_size"),
        ("qwen3_moe", {"num_experts": 40}, "num_experts"),
        ("mixtral", {"num_local_experts": 40}, "num_local_experts"),
        ("deepseek_v3", {"n_routed_experts": 64}, "n_routed_experts"),
    ],
)
def test_equal_parameters_are_counted_in_the_real_models(tmp_path, model_type, sizes, key):
    if sizes == {"n_inner": None}:
        sizes = {"n_inner": None, "n_embd": 64}
    spec = read_new_base(described(tmp_path / "m.yaml", model_type, **sizes))
    changes = {"hidden_size": spec.backbone.hidden_size}
    memory = tiny.memory_config(engram_table_size=[302, 302, 302], **changes)
    equal = equal_params(spec, memory)
    assert equal.key == key

    def built(spec):
        config = AutoConfig.for_model(spec.model_type, **spec.settings)
        return parameters(AutoModelForCausalLM.from_config(config))

    alone, kept = built(spec), built(equal.spec)
    assert (alone, kept) == (equal.base_params, equal.kept_params)
    base = write_new_base(equal.spec, tmp_path / "base")
    attached = engram.attach(base, memory, tmp_path / "attached")
    assert attached.plan.added_params == equal.memory_params
    assert equal.missing_params == alone - kept - equal.memory_params >= 0
    # One column, or one expert of each group, more would be too many.
    step = 2 if model_type == "deepseek_v3" else 1
    more = built(spec.with_settings({key: equal.after + step}))
    assert more + equal.memory_params > alone


def test_a_memory_that_the_base_cannot_pay_for_is_refused(tmp_path):
    dense = read_new_base(described(tmp_path / "m.yaml"))
    with pytest.raises(DoesNotFitError, match="columns of the feed-forward part that can go"):
        equal_params(dense, tiny.memory_config())
    experts = read_new_base(described(tmp_path / "e.yaml", "qwen3_moe"))
    with pytest.raises(DoesNotFitError, match="the experts that can go have"):
        equal_params(experts, tiny.memory_config())
    unknown = read_new_base(described(tmp_path / "s.yaml", "stablelm"))
    with pytest.raises(LayoutError, match="cannot be counted from the config"):
        equal_params(unknown, tiny.memory_config())


@pytest.mark.parametrize(
    ("own", "settings", "said"),
    [
        ("hidden_sise: 64", {}, r":3: hidden_sise: unknown key; did you mean hidden_size\?"),
        ("zzz: 1", {}, ":3: zzz: unknown key; a llama config has no such"),
        ("seed: -1", {}, ":3: seed: must be a whole number"),
        ("dtype: int8", {}, ":3: dtype: must be one of float32"),
        ("vocab_size: 500", {}, ":3: vocab_size: is 500; the tokenizer has 544 tokens"),
        ("seed: 1\nseed: 2", {}, ":4: seed: given twice"),
        ("", {"num_attention_heads": 5}, ": num_attention_heads: is 5, which does not divide"),
        ("", {"hidden_size": "wide"}, "hidden_size: must be a whole number"),
        ("_name_or_path: x", {}, "unknown key"),
        ("hidden_act: 5", {}, ":3: hidden_act: transformers refuses it"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, own, settings, said):
    with pytest.raises(ConfigError, match=said):
        read_new_base(described(tmp_path / "m.yaml", own=own, **settings))


def test_all_problems_are_told_at_once(tmp_path):
    (tmp_path / "m.yaml").write_text("model_type: lama\nseed: x\n")
    with pytest.raises(ConfigError) as raised:
        read_new_base(tmp_path / "m.yaml")
    assert [(it.key, it.line) for it in raised.value.problems] == [
        ("tokenizer", None),
        ("model_type", 1),
        ("seed", 2),
    ]
    assert "did you mean llama?" in raised.value.message


def test_two_names_of_one_key_and_other_kinds_of_models_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="is another name of n_embd"):
        read_new_base(described(tmp_path / "m.yaml", "gpt2", own="hidden_size: 32"))
    (tmp_path / "t5.yaml").write_text(f"model_type: t5\ntokenizer: {BPE}\n")
    with pytest.raises(LayoutError, match="encoder-decoder"):
        read_new_base(tmp_path / "t5.yaml")
    with pytest.raises(MissingFileError) as raised:
        read_new_base(tmp_path / "no.yaml")
    assert "examples/tiny-llama.yaml" in raised.value.hint


def test_the_tokenizer_is_found_from_the_files_folder_and_read_by_transformers(tmp_path):
    shutil.copytree(BPE, tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer_config.json").unlink()
    text = (
        described(tmp_path / "m.yaml").read_text().replace(str(BPE), "./tokenizer/tokenizer.json")
    )
    (tmp_path / "m.yaml").write_text(text)
    base = write_new_base(read_new_base(tmp_path / "m.yaml"), tmp_path / "base")
    ours, theirs = AutoTokenizer.from_pretrained(BPE), AutoTokenizer.from_pretrained(base)
    assert theirs("Some words, of 3 kinds.").input_ids == ours("Some words, of 3 kinds.").input_ids
    assert not list(tmp_path.glob(".*base*"))
    with pytest.raises(InputError, match="is there already"):
        write_new_base(read_new_base(tmp_path / "m.yaml"), base)


def test_the_note_says_the_scale():
    note = scale_note(1_200_000, 300_000)
    assert "1.2M parameters" in note
    assert "(0.25 for each parameter)" in note
    assert "nothing about large models" in note
