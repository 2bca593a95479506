"""`train()`: what is written, and what is refused."""

import itertools
import json
import shutil

import pytest
import torch

import engram
from engram.checkpoints.read.attached_files import TRAINING_FILES
from engram.errors import InputError, LayoutError, MissingFileError, UsageError
from engram.training import Listeners, TrainOptions, train
from support import tiny
from support.trained import files_of, options, tiny_base


def test_the_held_out_loss_falls_and_the_folder_verifies(trained, attached):
    result = trained.to_dict()
    assert trained.steps == 6
    assert trained.tokens == 6 * 2 * 32
    assert result["held_out"]["nats_per_token"] < result["held_out_start"]["nats_per_token"] - 0.05
    assert trained.difference.high < 0
    assert trained.rows_touched > 100
    assert 0 < trained.row_movement < 1
    assert engram.verify(trained.output).ok
    written = json.loads((trained.output / "engram_training.json").read_text())
    files = {path.name for path in trained.output.iterdir() if path.is_file()}
    assert {*written.pop("files"), *TRAINING_FILES} == files
    assert written == result
    log = [
        json.loads(line)
        for line in (trained.output / "engram_training_log.jsonl").read_text().splitlines()
    ]
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5, 6]
    assert "held_out_nats" in log[2]
    assert all(0 < mean < 1 for mean in log[0]["gate_means"].values())
    assert not trained.output.with_name("out.checkpoints").exists()
    card = (trained.output / "README.md").read_text()
    assert f"{result['held_out']['nats_per_token']:.4f}" in card
    assert result["data"]["sha256"] in card


def test_the_base_stays_and_only_the_memory_changes(trained, attached):
    before, after = files_of(attached), files_of(trained.output)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"engram-00001-of-00001.safetensors", "README.md", "config.json"}
    old, new = engram.load(attached).state_dict(), engram.load(trained.output).state_dict()
    for name in old:
        assert torch.equal(old[name], new[name]) == (
            ".engram." not in name or "offsets" in name or "token_map" in name
        ), name


def loss_of(folder, text):
    """Return the held-out loss of a folder, loaded as anyone loads it."""
    from engram.training import TrainingDocuments, document_losses

    documents = TrainingDocuments(text, folder, held_out_share=0.05)
    held_out = documents.read_held_out()
    return document_losses(engram.load(folder), held_out, folder, context=32).nats_per_token


def test_the_folder_loads_with_the_loss_that_was_measured(trained, text):
    assert loss_of(trained.output, text) == pytest.approx(
        trained.to_dict()["held_out"]["nats_per_token"], rel=1e-6
    )


def test_an_adapter_is_written_and_loads_beside_its_base(trained, attached, text, tmp_path):
    done = train(attached, tmp_path / "adapter", text, options=options(), adapter=True)
    assert not (done.output / "config.json").exists()
    assert engram.verify(done.output).ok
    model = engram.load(tiny_base(attached), done.output)
    ids = torch.tensor([[5, 6, 7, 8, 9, 5, 6, 7]])
    whole = engram.load(trained.output)
    assert torch.equal(model(ids).logits, whole(ids).logits)


def test_a_base_gets_a_memory_that_starts_at_zero(attached, text, tmp_path):
    config = tiny.memory_config()
    done = train(tiny_base(attached), tmp_path / "out", text, config=config, options=options())
    assert done.row_movement is None
    assert done.row_rms > 0
    assert done.forecast.start_rms == 0
    assert done.difference.high < 0
    assert engram.verify(done.output).ok


@pytest.mark.parametrize("kind", ["all", "lora"])
def test_weights_of_the_base_may_learn_too(attached, text, tmp_path, kind):
    done = train(attached, tmp_path / "out", text, options=options(train=kind, lr=1e-2))
    assert engram.verify(done.output).ok
    old, new = engram.load(attached).state_dict(), engram.load(done.output).state_dict()
    assert old.keys() == new.keys()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(old[name], new[name])
    assert done.difference.high < 0
    with pytest.raises(LayoutError):
        engram.detach(done.output, tmp_path / "detached")
    again = {"options": options(train=kind, steps=1), "overwrite": True}
    assert train(attached, done.output, text, **again).steps == 1
    (done.output / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        train(attached, done.output, text, **again)


def test_controls_are_written_and_say_what_they_are(attached, text, tmp_path):
    start = engram.load(attached).state_dict()
    results = {}
    for name in ("frozen-random", "uniform", "dense"):
        done = train(attached, tmp_path / name, text, options=options(control=name))
        results[name] = done
        assert done.difference.high < 0
        if name == "uniform":
            assert done.forecast.touches_per_row == done.tokens
        loads = "load_control(" if name == "dense" else "engram.load("
        assert loads in (done.output / "README.md").read_text()
        assert (
            json.loads((done.output / "engram_training.json").read_text())["options"]["control"]
            == name
        )
    tables = [name for name in start if name.endswith("embedding.weight") and ".engram." in name]
    frozen = engram.load(results["frozen-random"].output).state_dict()
    assert results["frozen-random"].rows_touched == 0
    assert results["frozen-random"].row_movement is None
    uniform = engram.load(results["uniform"].output)
    assert results["uniform"].forecast.touches_per_row == results["uniform"].tokens
    for name in tables:
        assert frozen[name].std() == pytest.approx(1, abs=0.1)
    assert engram.verify(results["uniform"].output).ok
    heads = next(it for it in uniform.modules() if isinstance(it, engram.MultiHeadEmbedding))
    rows = heads.embedding.weight[: heads.head_sizes[0]]
    assert torch.equal(rows, rows[:1].expand_as(rows))


def test_bfloat16_tables_are_trained_and_stay_so(attached, text, tmp_path):
    engram.attach(tiny_base(attached), tiny.memory_config(), tmp_path / "bf16", dtype="bfloat16")
    done = train(tmp_path / "bf16", tmp_path / "out", text, options=options())
    assert engram.verify(done.output).ok
    assert done.difference.high < 0
    assert loss_of(done.output, text) == pytest.approx(done.end.nats_per_token, rel=1e-7)
    twin = train(tmp_path / "bf16", tmp_path / "twin", text, options=options())
    name = "engram-00001-of-00001.safetensors"
    assert (done.output / name).read_bytes() == (twin.output / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"max_steps": 3}, "--steps"),
        ({"fp16": True}, "bf16"),
        ({"adam_beta2": 0.9}, "MemoryOptimizer"),
        ({"dataloader_num_workers": 2}, "by number"),
        ({"data_seed": 2}, "--seed"),
        ({"save_total_limit": 1}, "checkpoints"),
        ({"fsdp_config": {}}, "DDP"),
        ({"loging_steps": 3}, "logging_steps"),
        ({"logging_steps": -5, "logging_strategy": "nonsense"}, "nonsense"),
    ],
)
def test_arguments_of_the_trainer_are_checked(attached, text, tmp_path, more, match):
    with pytest.raises(UsageError) as error:
        train(attached, tmp_path / "out", text, options=options(trainer=more))
    assert match in f"{error.value.message} {error.value.hint}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharding_that_accelerate_launch_asks_for_is_refused(
    attached, text, tmp_path, monkeypatch, variable
):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UsageError, match="accelerate was told to use"):
        train(attached, tmp_path / "out", text, options=options())
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_together_is_refused_and_leaves_nothing(attached, text, tmp_path):
    adapter = tmp_path / "adapter"
    engram.attach(tiny_base(attached), tiny.memory_config(), adapter, adapter=True)
    with pytest.raises(LayoutError, match="adapter"):
        train(adapter, tmp_path / "out", text, options=options())
    with pytest.raises(UsageError, match="has a memory"):
        train(attached, tmp_path / "out", text, config=tiny.memory_config(), options=options())
    with pytest.raises(MissingFileError):
        train(attached, tmp_path / "out", tmp_path / "nothing.txt", options=options())
    with pytest.raises(UsageError, match="exclude"):
        options(tokens=100)
    with pytest.raises(UsageError, match="seed must be below"):
        options(seed=2**32)
    shutil.rmtree(adapter)
    assert not list(tmp_path.iterdir())


def test_the_folder_that_one_is_in_may_be_the_output(attached, text, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert train(attached, ".", text, options=options(steps=1)).output == here
    assert engram.verify(here).ok


def test_minutes_are_turned_into_steps(attached, text, tmp_path):
    seen = []
    done = train(
        attached,
        tmp_path / "out",
        text,
        options=TrainOptions(minutes=0.01, batch=1, context=32),
        listeners=Listeners(forecast=seen.append),
    )
    assert done.steps == seen[0].steps >= 1
    assert seen[0].seconds <= 0.7


def test_evaluations_take_a_fifth_of_the_time_at_most(attached, text, tmp_path):
    def run(name, steps, **more):
        asked = TrainOptions(steps=steps, batch=2, context=32, save_every=0, **more)
        done = train(attached, tmp_path / name, text, options=asked)
        return done, [record["step"] for record in done.log if "held_out_nats" in record]

    assert run("short", 4)[1] == []
    assert run("asked", 4, evaluate_every=2)[1] == [2]
    done, steps = run("long", 60)
    # A forward pass takes about 0.43 of a step.
    share = 0.43 * len(steps) * done.forecast.held_out_tokens / done.tokens
    assert 0.1 < share <= 0.2
    assert len({later - step for step, later in itertools.pairwise(steps)}) == 1
