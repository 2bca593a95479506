"""`engram train --from-config`: a new model with a memory or without, at equal parameters."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import engram
from engram.config.config_file import read_config
from engram.corpus.text.text_options import TextOptions
from engram.training import (
    Listeners,
    TrainOptions,
    load_control,
    read_new_base,
    train,
    write_new_base,
)
from support import tiny
from support.cli import run
from support.paths import REPOSITORY

EXAMPLE, MEMORY = (
    REPOSITORY / "examples" / name for name in ("tiny-llama.yaml", "tiny-llama-memory.yaml")
)
SHORT = ["--steps", 4, "--context", 32, "--batch", 2, "--lr", "0.01", "--held-out", "0.3"]
ARGUMENTS = [*SHORT, "--split", "line", "--json"]


@pytest.fixture
def text(tmp_path):
    words = random.Random(0)
    lines = [
        " ".join(words.choice(["red", "green", "tall", "house", "tree"]) for _ in range(30))
        for _ in range(40)
    ]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    return tmp_path / "text.txt"


def params(model):
    return sum(weight.numel() for weight in model.parameters())


def test_with_a_memory_and_without_have_equal_parameters(text, tmp_path):
    scratch = ["train", "--from-config", EXAMPLE, "--text", text, *ARGUMENTS]
    alone = run(*scratch, "-o", tmp_path / "alone", "--control", "none").json()
    both = run(*scratch, "-o", tmp_path / "both", "-c", MEMORY, "--equal-params").json()
    for found in (alone, both):
        assert "nothing about large models" in " ".join(found["notes"])
        assert found["options"]["train"] == "all"
        start, end = (found[key]["nats_per_token"] for key in ("held_out_start", "held_out"))
        assert end < start - 0.1
    card = (tmp_path / "alone" / "README.md").read_text()
    assert "| trained | all |\n| control | none |" in card
    assert "Addresses" not in card
    assert "Addresses" in (tmp_path / "both" / "README.md").read_text()
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "alone")
    assert not (tmp_path / "alone.checkpoints").exists()
    assert not any(".engram." in name for name, _ in base.named_parameters())
    assert len(AutoTokenizer.from_pretrained(tmp_path / "alone")) == tiny.VOCAB
    model = engram.load(tmp_path / "both")
    assert 0 <= params(base) - params(model) < 600
    assert f"{params(base) - params(model):,} below the {params(base):,}" in both["notes"][0]
    # All of it was trained, the embedding of the base too.
    fresh = AutoModelForCausalLM.from_pretrained(
        write_new_base(read_new_base(EXAMPLE), tmp_path / "fresh")
    )
    moved = base.get_input_embeddings().weight - fresh.get_input_embeddings().weight
    assert 0.001 < moved.abs().max() < 0.2
    assert run("verify", tmp_path / "both", "--json").json()["ok"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "train needs something to train"),
        (["model", "--from-config", EXAMPLE], "and only one"),
        (["model", "--equal-params"], "is for --from-config"),
        (["--from-config", EXAMPLE, "--equal-params"], "Give its config"),
        (["--from-config", EXAMPLE, "--train", "memory"], "Give --train all"),
        (["model", "--control", "none"], "Give --train all"),
        (["--from-config", EXAMPLE, "--control", "dense"], "is not kept"),
    ],
)
def test_what_excludes_each_other_is_refused(text, tmp_path, asked, said):
    result = run("train", *asked, "--text", text, "-o", tmp_path / "out", *ARGUMENTS)
    assert result.code == 2
    assert said in result.stderr
    assert not (tmp_path / "out.checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("no_memory", [False, True])
def test_an_interrupted_run_goes_on_to_the_same_weights(text, tmp_path, no_memory):
    spec, memory = read_new_base(EXAMPLE), read_config(MEMORY)
    options = TrainOptions(
        steps=4,
        context=32,
        batch=2,
        control="none" if no_memory else None,
        train="all",
        held_out=0.3,
    )
    rules = TextOptions(split="line")

    def trained(name, **more):
        place = tmp_path / name
        return train(spec, place, text, config=memory, options=options, text=rules, **more)

    whole = trained("whole")
    stops = iter([False, True])
    halted = trained("halted", listeners=Listeners(should_stop=lambda: next(stops)))
    assert (halted.output, halted.steps) == (None, 2)
    again = trained("halted", resume=True)
    assert again.end.nats_per_token == whole.end.nats_per_token
    load = AutoModelForCausalLM.from_pretrained if no_memory else engram.load
    states = [load(tmp_path / name).state_dict() for name in ("whole", "halted")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_base_of_an_attached_folder_is_trained_alone(text, tmp_path, tmp_path_factory):
    base, attached = tiny.family_folders("llama", tmp_path_factory)
    run(
        "train",
        attached,
        "--control",
        "none",
        "--train",
        "all",
        "--text",
        text,
        "-o",
        tmp_path / "out",
        *ARGUMENTS,
    )
    before, after = (AutoModelForCausalLM.from_pretrained(it) for it in (base, tmp_path / "out"))
    assert after.config.model_type == "llama"
    changed = [
        not torch.equal(old, new)
        for old, new in zip(before.parameters(), after.parameters(), strict=True)
    ]
    assert all(changed)


def test_a_dense_control_of_a_plain_base_finds_it_again(text, tmp_path, tmp_path_factory):
    base, _ = tiny.family_folders("llama", tmp_path_factory)
    config = tmp_path / "memory.yaml"
    engram.write_config(config, tiny.memory_config())
    out = tmp_path / "out"
    run("train", base, "-c", config, "--control", "dense", "--text", text, "-o", out, *ARGUMENTS)
    assert not (tmp_path / "out.checkpoints").exists()
    ids = torch.arange(3, 20)[None]
    trained = load_control(out)(input_ids=ids).logits
    plain = AutoModelForCausalLM.from_pretrained(base)(input_ids=ids).logits
    assert (trained - plain).abs().max() > 1e-3


def test_the_numbers_of_a_trained_base_lie_beside_those_of_its_memory(text, tmp_path):
    base, attached, trained = (tmp_path / name for name in ("base", "attached", "trained"))
    scratch = ["train", "--from-config", EXAMPLE, "--control", "none", "--text", text, *ARGUMENTS]
    run(*scratch, "-o", base)
    run("attach", base, "-c", MEMORY, "-o", attached, "--json")
    run("train", attached, "--text", text, *ARGUMENTS, "-o", trained)
    assert run("verify", trained, "--json").json()["ok"]
    run("detach", trained, "-o", tmp_path / "back", "--json")
    for file in base.iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()
