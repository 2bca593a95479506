"""`train()`: what is written, what goes on exactly, what is refused."""

import itertools
import json
import random
import shutil

import pytest
import torch

import engram
from engram.checkpoints.read.attached_files import TRAINING_FILES
from engram.errors import InputError, LayoutError, MissingFileError, UsageError
from engram.training import Listeners, TrainOptions, train
from engram.training.run_folder import RunFolder
from support import tiny

OPTIONS = {"steps": 6, "batch": 2, "context": 32, "save_every": 2, "evaluate_every": 3}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Return a text of 80 paragraphs of words that follow each other in few ways."""
    numbers, lines = random.Random(1), []
    for _ in range(80):
        word, line = numbers.randrange(40), []
        for _ in range(numbers.randrange(4, 50)):
            word = (3 * word + numbers.randrange(2)) % 40
            line.append(f"w{word}")
        lines.append(" ".join(line))
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(lines))
    return path


@pytest.fixture(scope="module")
def attached(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[1]


def options(**more):
    return TrainOptions(**{**OPTIONS, **more})


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def trained(attached, text, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "out"
    return train(attached, output, text, options=options())


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


@pytest.mark.parametrize("stops_at", [1, 3, 5])
def test_an_interrupted_run_goes_on_to_the_same_bytes(trained, attached, text, tmp_path, stops_at):
    steps = iter(range(1, 100))
    stopped = train(
        attached,
        tmp_path / "out",
        text,
        options=options(),
        listeners=Listeners(should_stop=lambda: next(steps) == stops_at),
    )
    assert stopped.output is None
    assert stopped.checkpoint.name == f"checkpoint-{stops_at:08d}"
    assert not (tmp_path / "out").exists()
    assert engram.load(tiny_base(attached), stopped.checkpoint).training is False
    again = train(attached, tmp_path / "out", text, options=options(), resume=True)
    one, other = files_of(trained.output), files_of(again.output)
    assert one.keys() == other.keys()
    differing = {name for name in one if one[name] != other[name]}
    assert differing <= {"engram_training.json"}  # seconds and places
    ignored = ("seconds", "output", "forecast")
    results = [trained.to_dict(), again.to_dict()]
    for result in results:
        for key in ignored:
            result.pop(key)
    assert results[0] == results[1]


def tiny_base(attached):
    """Return the base that a tiny folder was attached to."""
    return attached.parent / "base"


def test_loggers_are_told_the_same_losses_by_a_run_that_went_on(
    attached, text, tmp_path, monkeypatch
):
    told = []
    monkeypatch.setattr(
        "transformers.Trainer.log", lambda self, logs, *_: told.append(logs.get("loss"))
    )

    def run(name, stops_at, *, resume=False):
        steps = iter(range(1, 100))
        stop = Listeners(should_stop=lambda: next(steps) == stops_at)
        chosen = options(trainer={"logging_steps": 1}, evaluate_every=0)
        train(attached, tmp_path / name, text, options=chosen, listeners=stop, resume=resume)
        losses = [loss for loss in told if loss is not None]
        told.clear()
        return losses

    whole = run("whole", None)
    assert len(whole) == 6
    assert run("parts", 3)[:2] == whole[:2]
    assert run("parts", None, resume=True) == whole[3:]


def test_a_run_that_ended_before_it_was_written_goes_on_to_the_end(
    trained, attached, text, tmp_path
):
    def fail(done, total):
        if (tmp_path / "out.checkpoints" / "checkpoint-00000006").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            attached,
            tmp_path / "out",
            text,
            options=options(),
            listeners=Listeners(evaluation=fail),
        )
    again = train(attached, tmp_path / "out", text, options=options(), resume=True)
    assert (
        files_of(again.output)["engram-00001-of-00001.safetensors"]
        == (trained.output / "engram-00001-of-00001.safetensors").read_bytes()
    )


def test_resuming_with_other_options_or_without_a_run_is_refused(attached, text, tmp_path):
    stop = Listeners(should_stop=lambda: True)
    train(attached, tmp_path / "out", text, options=options(), listeners=stop)
    with pytest.raises(InputError, match="table_lr was 0.1"):
        train(attached, tmp_path / "out", text, options=options(table_lr=0.2), resume=True)
    with pytest.raises(InputError, match="unfinished run"):
        train(attached, tmp_path / "out", text, options=options())
    with pytest.raises(MissingFileError, match="no run"):
        train(attached, tmp_path / "other", text, options=options(), resume=True)
    done = train(attached, tmp_path / "out", text, options=options(steps=1), overwrite=True)
    assert done.steps == 1
    (tmp_path / "out.checkpoints").mkdir()
    (tmp_path / "out.checkpoints" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"mine\.txt"):
        train(attached, tmp_path / "out", text, options=options(), overwrite=True)
    assert (tmp_path / "out.checkpoints" / "mine.txt").exists()


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


@pytest.mark.parametrize("kind", ["all", "lora"])
def test_such_a_run_goes_on_exactly(attached, text, tmp_path, kind):
    whole = train(attached, tmp_path / "one", text, options=options(train=kind))
    steps = iter(range(1, 100))
    stop = Listeners(should_stop=lambda: next(steps) == 3)
    train(attached, tmp_path / "two", text, options=options(train=kind), listeners=stop)
    again = train(attached, tmp_path / "two", text, options=options(train=kind), resume=True)
    one, other = files_of(whole.output), files_of(again.output)
    weights = [name for name in one if name.endswith(".safetensors")]
    assert weights
    assert all(one[name] == other[name] for name in weights)
    assert one["engram_training_log.jsonl"] == other["engram_training_log.jsonl"]


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


def test_starting_anew_removes_nothing_but_a_run(attached, text, tmp_path):
    output, beside = tmp_path / "out", tmp_path / "out.checkpoints"
    foreign = beside / "checkpoint-500" / "model.safetensors"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"of another program")
    with pytest.raises(InputError, match=r"no run\.json"):
        train(attached, output, text, options=options(), overwrite=True)
    assert foreign.read_bytes() == b"of another program"
    shutil.rmtree(beside)
    stop = Listeners(should_stop=lambda: True)
    checkpoint = train(attached, output, text, options=options(), listeners=stop).checkpoint
    with pytest.raises(InputError, match="is read"):
        train(checkpoint, output, text, options=options(), overwrite=True)
    assert checkpoint.is_dir()


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


def test_tables_in_files_are_trained_to_the_same_bytes(trained, attached, text, tmp_path):
    done = train(attached, tmp_path / "out", text, options=options(tables="disk"))
    one, other = files_of(trained.output), files_of(done.output)
    differing = {name for name in one if one[name] != other.get(name)}
    assert one.keys() == other.keys()
    assert differing <= {"engram_training.json", "README.md"}
    assert done.row_movement == trained.row_movement
    assert not (tmp_path / "out.checkpoints").exists()


@pytest.mark.parametrize("stops_at", [1, 4])
def test_a_run_with_tables_in_files_goes_on_exactly(trained, attached, text, tmp_path, stops_at):
    steps = iter(range(1, 100))
    stop = Listeners(should_stop=lambda: next(steps) == stops_at)
    train(attached, tmp_path / "out", text, options=options(tables="disk"), listeners=stop)
    again = train(attached, tmp_path / "out", text, options=options(tables="disk"), resume=True)
    one, other = files_of(trained.output), files_of(again.output)
    differing = {name for name in one if one[name] != other.get(name)}
    assert differing <= {"engram_training.json", "README.md"}
    assert again.row_movement == trained.row_movement


def test_a_checkpoint_that_was_never_committed_is_not_taken_for_the_last(
    trained, attached, text, tmp_path
):
    steps = iter(range(1, 100))
    asked = {"options": options(tables="disk", save_every=0)}

    def run(stops_at, **more):
        stop = Listeners(should_stop=lambda: next(steps) == stops_at)
        return train(attached, tmp_path / "out", text, **asked, **more, listeners=stop)

    run(2)
    # As a process leaves it that is killed between the folder and the commit.
    place = tmp_path / "out.checkpoints"
    shutil.copytree(place / "checkpoint-00000002", place / "checkpoint-00000005")
    assert run(4, resume=True).checkpoint.name == "checkpoint-00000004"
    assert [path.name for path in place.glob("checkpoint-*")] == ["checkpoint-00000004"]
    shutil.move(place / "checkpoint-00000004", tmp_path / "moved")
    with pytest.raises(MissingFileError, match="checkpoint-00000004 is gone"):
        run(99, resume=True)
    shutil.move(tmp_path / "moved", place / "checkpoint-00000004")
    again = run(99, resume=True)
    name = "engram-00001-of-00001.safetensors"
    assert (again.output / name).read_bytes() == (trained.output / name).read_bytes()


def test_processes_read_on_at_a_row_whatever_their_number_was():
    from engram.training.trainer import MicroBatches

    class Numbers:
        def batch(self, first, count):
            return list(range(first, first + count))

    def read(rank, ranks, first_row):
        return list(itertools.islice(MicroBatches(Numbers(), 2, rank, ranks, first_row), 3))

    assert read(0, 1, 0) == [[0, 1], [2, 3], [4, 5]]
    assert read(1, 3, 12) == [[14, 15], [20, 21], [26, 27]]
    every = [row for rank in range(3) for batch in read(rank, 3, 12) for row in batch]
    assert sorted(every) == list(range(12, 30))


def test_a_run_that_another_command_works_on_is_left_alone(attached, text, tmp_path):
    refused = []

    def meddle(news):
        for resume, overwrite in ((False, True), (True, False), (False, False)):
            other = RunFolder(tmp_path / "out", 0)
            with (
                pytest.raises(InputError, match="Another process trains in"),
                other.opened(resume=resume, overwrite=overwrite),
            ):
                pass
            refused.append(news.step)

    listeners = Listeners(news=lambda news: meddle(news) if news.step == 3 else None)
    done = train(attached, tmp_path / "out", text, options=options(), listeners=listeners)
    assert refused == [3, 3, 3]
    assert done.steps == 6
    assert not (tmp_path / "out.checkpoints").exists()
