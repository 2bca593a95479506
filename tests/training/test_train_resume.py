"""`train()` that goes on: after an interrupt, with tables in files, beside other commands."""

import itertools
import shutil

import pytest
import torch

import engram
from engram.errors import InputError, MissingFileError
from engram.training import Listeners, train
from engram.training.run_folder import RunFolder
from support.trained import files_of, options, tiny_base


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


@pytest.mark.parametrize("kind", ["all", "lora"])
def test_a_run_that_trains_the_base_goes_on_exactly(attached, text, tmp_path, kind):
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


def test_a_run_stays_until_the_one_that_replaces_it_begins(attached, text, tmp_path):
    output, checkpoint = tmp_path / "out", "checkpoint-00000003"
    steps = iter(range(1, 100))
    stop = Listeners(should_stop=lambda: next(steps) == 3)
    train(attached, output, text, options=options(), listeners=stop)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InputError, match="empty"):
        train(attached, output, tmp_path / "empty.txt", options=options(), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "out.checkpoints"]
    # Two processes that are killed: one before its run begins, one after that.
    replaced = tmp_path / "out.checkpoints.replaced"
    (tmp_path / "out.checkpoints").rename(replaced)
    (tmp_path / "out.checkpoints").mkdir()
    (tmp_path / "out.checkpoints" / "run.json").write_text("{}")
    with RunFolder(output, 0).opened(resume=True, overwrite=False) as goes_on:
        assert goes_on
        assert not replaced.exists()
        assert (tmp_path / "out.checkpoints" / checkpoint).is_dir()
    shutil.copytree(tmp_path / "out.checkpoints", replaced)
    assert train(attached, output, text, options=options(), resume=True).steps == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "out"]


@pytest.mark.parametrize("tables", ["host", "disk"])
def test_tables_elsewhere_are_trained_to_the_same_bytes(trained, attached, text, tmp_path, tables):
    done = train(attached, tmp_path / "out", text, options=options(tables=tables))
    one, other = files_of(trained.output), files_of(done.output)
    differing = {name for name in one if one[name] != other.get(name)}
    assert one.keys() == other.keys()
    assert differing <= {"engram_training.json", "README.md"}
    assert done.row_movement == trained.row_movement
    assert not (tmp_path / "out.checkpoints").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("tables", ["ram", "host", "disk"])
def test_a_gpu_trains_tables_wherever_they_are(trained, attached, text, tmp_path, tables):
    chosen = options(tables=tables, trainer={"use_cpu": False})
    done = train(attached, tmp_path / "out", text, options=chosen)
    assert done.end.nats_per_token == pytest.approx(trained.end.nats_per_token, rel=1e-3)


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
