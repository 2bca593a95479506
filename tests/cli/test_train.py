"""`engram train`: what it prints, what it refuses, how it is interrupted and resumed."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import engram
from engram.checkpoints.read.attached_files import TRAINING_LOG_FILE
from engram.pictures import plot_training
from engram.training.run import Run
from engram.training.session import Session
from support import tiny
from support.cli import TERMINAL, on_a_terminal, run
from support.drawn import ink, lines
from support.forks import INTERRUPT
from support.paths import WORD

SHORT = ("--steps", "4", "--batch", "2", "--context", "32", "--save-every", "2")
# Where equal runs are equal in bytes.
SHORT += ("--set", "use_cpu=true")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a text of 80 paragraphs, other texts, and a memory for the base."""
    folder = tmp_path_factory.mktemp("train")
    numbers = random.Random(1)
    lines = [
        " ".join(f"w{numbers.randrange(40)}" for _ in range(numbers.randrange(4, 50)))
        for _ in range(80)
    ]
    (folder / "text.txt").write_text("\n\n".join(lines))
    (folder / "empty.txt").write_text("")
    (folder / "one.txt").write_text(lines[0])
    (folder / "two.txt").write_text("a few words\n\nand others")
    (folder / "memory.yaml").write_text(json.dumps(tiny.memory_config().to_dict()))
    return folder


@pytest.fixture(scope="module")
def attached(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[1]


@pytest.fixture(scope="module")
def whole(place, attached):
    """Return what a run in one go wrote."""
    words = train(attached, place, "whole")
    run(*words).ended(0)
    return files_of(place / "whole")


def train(model, place, output, *more):
    return ["train", model, "--text", place / "text.txt", "-o", place / output, *SHORT, *more]


def files_of(folder):
    """Return the bytes of all files but the one that states seconds."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("engram_training.json", "README.md")
    }


def left(place, name):
    return [path.name for path in place.iterdir() if path.name.startswith((name, f".{name}"))]


def test_people_are_told_the_cost_the_course_and_the_result(place, attached):
    done = run(*train(attached, place, "told", "--evaluate-every", "2")).ended(0)
    notes = done.stderr.splitlines()
    assert notes[0].startswith("Will take 4 steps, 256 tokens, ")
    assert "are held out; they are evaluated before and after" in notes[1]
    assert "touched 1.2 times on average; rows will move by at most 0.12" in notes[2]
    assert notes[3].startswith("Warning: rows will move by at most 0.12")
    told = notes[4:8]
    assert [note.split(" ")[:4] for note in told] == [
        f"Step {n} of 4:".split() for n in range(1, 5)
    ]
    # A held-out loss is told of the step that it is of.
    assert ["held out" in note for note in told] == [False, True, False, False]
    assert notes[8:] == [f"Next: engram verify {place / 'told'}"]
    assert "held out  nats a token" in done.stdout
    assert "95 % interval" in done.stdout
    card = (place / "told" / "README.md").read_text()
    assert f"engram train {attached}" in card
    assert left(place, "told") == ["told"]


def test_programs_get_one_object_and_nothing_else(place, attached):
    done = run(*train(attached, place, "json", "--json", "-q"))
    found = done.json()
    assert found["schema"] == "engram.train/1"
    assert found["steps"] == 4
    assert found["output"] == str(place / "json")
    assert [line for line in done.stderr.splitlines() if not line.startswith("Warning: rows")] == []


def test_a_terminal_gets_a_bar(place, attached):
    text = on_a_terminal(
        *train(attached, place, "bar", "--train", "lora"), stream="stderr", COLUMNS="200"
    )
    assert "4/4" in text
    assert "tokens/s" in text
    assert "Step 4" not in text
    for foreign in ("transformers", "torch", "Loading", "Failed", "site-packages"):
        assert foreign not in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--text", "text.txt"], 2, "Pass -o FOLDER"),
        (["-o", "out"], 2, "--text or --corpus"),
        (["-o", "out", "--text", "text.txt", "--corpus", "text.txt"], 2, "exclude each other"),
        (["-o", "out", "--corpus", "text.txt"], 2, "--text text.txt"),
        (["-o", "out", "--corpus", "nothing"], 4, "engram corpus build"),
        (["-o", "out", "--text", "nothing"], 4, "does not exist"),
        (["-o", "out", "--text", "empty.txt"], 3, "no text in it"),
        (["-o", "out", "--text", "one.txt"], 3, "got 1 of 1"),
        (["-o", "out", "--text", "two.txt"], 3, "--context"),
        (["-o", "out", "--text", "text.txt", "--set", "foo"], 2, "KEY=VALUE"),
        (["-o", "out", "--text", "text.txt", "--set", "loging_steps=1"], 2, "logging_steps"),
        (["-o", "out", "--text", "text.txt", "--set", "logging_steps=a"], 2, "got 'a'"),
        (["-o", "out", "--text", "text.txt", "--set", "learning_rate=1"], 2, "--lr"),
        (
            ["-o", "out", "--text", "text.txt", "--set", "report_to=x"],
            2,
            "report_to names an unknown",
        ),
        (["-o", "out", "--text", "text.txt", "--args", "unknown.yaml"], 2, "logging_steps"),
        (["-o", "out", "--text", "text.txt", "--args", "wrong.yaml"], 2, "must be bool, got 17"),
        (["-o", "out", "--text", "text.txt", "--args", "list.yaml"], 3, "TrainingArguments"),
        (["-o", "out", "--text", "text.txt", "--args", "none.yaml"], 4, "TrainingArguments"),
        (["-o", "out", "--text", "text.txt", "--held-out", "0"], 2, "--held-out must be above 0"),
        (["-o", "out", "--text", "text.txt", "--steps", "1", "--tokens", "9"], 2, "exclude"),
        (["-o", "out", "--text", "text.txt", "-c", "memory.yaml"], 2, "has a memory"),
        (["-o", "out", "--text", "text.txt", "--train", "all", "--adapter"], 2, "--adapter"),
        (["-o", "out", "--text", "text.txt", "--resume"], 4, "leave --resume out"),
    ],
)
def test_what_is_wrong_is_named_and_leaves_nothing(place, attached, monkeypatch, words, code, said):
    monkeypatch.chdir(place)
    Path("unknown.yaml").write_text("loging_steps: 3\n")
    Path("wrong.yaml").write_text("logging_first_step: 17\n")
    Path("list.yaml").write_text("- 1\n")
    failure = run("train", attached, *words, "--json").error(code)
    assert said in failure["message"] + failure["hint"]
    assert "bug" not in failure["message"]
    assert left(place, "out") == []


def test_tokens_of_another_tokenizer_are_refused(place, attached, monkeypatch):
    monkeypatch.chdir(place)
    words = ["corpus", "build", "text.txt", "-t", WORD, "-o", "words", "-q", "--no-eos"]
    run(*words).ended(0)
    failure = run("train", attached, "--corpus", "words", "-o", "out", *SHORT, "--json")
    assert "tokenizer" in failure.error(5 if failure.code == 5 else 3)["message"]
    assert left(place, "out") == []


def test_positions_that_a_model_learned_are_the_most_that_it_reads(place, tmp_path_factory):
    folder = tiny.family_folders("gpt2", tmp_path_factory)[1]
    failure = run(*train(folder, place, "long", "--context", "256", "--json")).error(2)
    assert "longer than the 128 positions" in failure["message"]
    assert left(place, "long") == []


def test_an_output_is_replaced_on_demand_alone(place, attached, whole):
    (place / "mine").mkdir()
    (place / "mine" / "notes.txt").write_text("mine")
    assert "not replaced" in run(*train(attached, place, "mine", "--overwrite")).ended(3).stderr
    assert left(place, "mine") == ["mine"]
    assert "--overwrite" in run(*train(attached, place, "whole")).ended(3).stderr
    run(*train(attached, place, "whole", "--overwrite", "-q")).ended(0)
    assert files_of(place / "whole") == whole
    assert left(place, "whole") == ["whole"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(place, attached, tmp_path):
    tmp_path.chmod(0o500)
    done = run(*train(attached, place, tmp_path / "out")).ended(3)
    assert str(tmp_path) in done.stderr


@pytest.mark.parametrize("tables", ["ram", "disk"])
def test_an_interrupt_ends_the_step_and_resuming_gives_the_same_bytes(
    place, attached, whole, monkeypatch, tables
):
    name, end_step = f"stopped-{tables}", Run.end_step

    def interrupt(self, step, loss):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return end_step(self, step, loss)

    monkeypatch.setattr(Run, "end_step", interrupt)
    words = train(attached, place, name, "--tables", tables)
    done = run(*words).ended(130)
    assert "Interrupted after 3 steps of 4" in done.stdout
    again = shlex.split(done.stderr.splitlines()[-1].removeprefix("Next: engram "))
    assert again[-1] == "--resume"
    monkeypatch.undo()
    assert "unfinished run" in run(*words).ended(3).stderr
    assert "batch was 2" in run(*again, "--batch", "1").ended(3).stderr
    assert "steps was 4" in run(*again, "--steps", "5").ended(3).stderr
    run(*again).ended(0)
    assert files_of(place / name) == whole
    assert left(place, name) == [name]
    assert "--resume" not in (place / name / "README.md").read_text()


def test_an_interrupted_replacement_is_resumed_as_it_says(place, attached, whole, monkeypatch):
    run(*train(attached, place, "replaced", "--seed", "1")).ended(0)
    before = files_of(place / "replaced")
    end_step = Run.end_step

    def interrupt(self, step, loss):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return end_step(self, step, loss)

    monkeypatch.setattr(Run, "end_step", interrupt)
    done = run(*train(attached, place, "replaced", "--overwrite")).ended(130)
    assert files_of(place / "replaced") == before
    monkeypatch.undo()
    run(*shlex.split(done.stderr.splitlines()[-1].removeprefix("Next: engram "))).ended(0)
    assert files_of(place / "replaced") == whole


@pytest.mark.parametrize(
    ("method", "is_resumed"), [("step_seconds", False), ("held_out", True), ("final", True)]
)
def test_an_interrupt_outside_of_steps_ends_at_once(
    place, attached, whole, monkeypatch, method, is_resumed
):
    name, calls = f"early-{method}", []
    real = getattr(Session, "held_out" if method == "final" else method)

    def interrupt(self, *more):
        calls.append(1)
        # Before it trains, while it does (after a half), and at its end.
        if method != "final" or len(calls) > 4:
            signal.raise_signal(signal.SIGINT)
        return real(self, *more)

    monkeypatch.setattr(Session, "held_out" if method == "final" else method, interrupt)
    done = run(*train(attached, place, name, "--evaluate-every", "1")).ended(130)
    assert done.stdout == ""
    assert done.stderr.endswith("Interrupted.\n")
    assert ("--resume" in done.stderr) == is_resumed
    assert left(place, name) == ([f"{name}.checkpoints"] if is_resumed else [])
    monkeypatch.undo()
    flag = ["--resume"] if is_resumed else []
    run(*train(attached, place, name, "--evaluate-every", "1", *flag)).ended(0)
    memory = "engram-00001-of-00001.safetensors"
    assert files_of(place / name)[memory] == whole[memory]
    assert left(place, name) == [name]


def test_a_second_interrupt_ends_at_once(place, attached, forks):
    words = train(attached, place, "twice", "--steps", "200000", "--save-every", "0")
    done = forks.run(words, place, signals=[(6, INTERRUPT), (6.02, INTERRUPT)], limit_s=60)
    assert (done.code, done.timed_out) == (130, False)
    assert "again stops at once" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "twice").exists()


def test_a_base_gets_a_memory_and_its_name_is_known(place, attached):
    base = attached.parent / "base"
    words = [*train(base, place, "adapter", "--adapter"), "-c", place / "memory.yaml"]
    run(*words).ended(0)
    assert json.loads((place / "adapter" / "engram_adapter.json").read_text())["base"]["name"] == (
        "base"
    )
    assert "# base with a trained Engram memory" in (place / "adapter" / "README.md").read_text()
    engram.load(base, place / "adapter")
    assert "No memory fits" in run(*train(base, place, "none")).ended(5).stderr
    assert left(place, "none") == []


def test_training_goes_on_from_what_was_trained_or_saved_anew(place, attached, tmp_path):
    run(*train(attached, place, "all", "--train", "all")).ended(0)
    done = run(*train(place / "all", place, "more", "--json")).json()
    assert (
        done["held_out_start"]
        == json.loads((place / "all" / "engram_training.json").read_text())["held_out"]
    )
    assert engram.verify(place / "more").ok
    before = engram.load(place / "all").state_dict()
    after = engram.load(place / "more").state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert all(".engram." in name for name in changed)
    failure = run(*train(place / "all", place, "adapter-2", "--adapter", "--json")).error(2)
    assert "saved anew" in failure["message"]


def test_a_dense_control_says_what_it_is(place, attached):
    run(*train(attached, place, "dense", "--control", "dense")).ended(0)
    folder = str(place / "dense")
    for words in (
        ["verify", folder],
        ["report", folder],
        ["lookup", folder, "a text"],
        ["detach", folder, "-o", place / "detached"],
        train(folder, place, "more-dense"),
    ):
        assert f"{folder} is a dense control" in run(*words, "--json").error(3)["message"]
    run(*train(attached, place, "dense", "--overwrite", "-q")).ended(0)
    assert engram.verify(folder).ok


def test_a_memory_is_trained_beside_a_quantised_base(place, tmp_path):
    pytest.importorskip("bitsandbytes")
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    base = tiny.base_model("llama", tmp_path / "base", sizes=sizes)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=settings)
    model.save_pretrained(tmp_path / "quantised")
    for file in base.glob("token*"):
        shutil.copyfile(file, tmp_path / "quantised" / file.name)
    memory = tiny.memory_config(hidden_size=64)
    folder = tiny.attached_model(tmp_path / "quantised", tmp_path / "attached", memory)
    with warnings.catch_warnings(action="error"):  # such as one of gradients that are lost
        done = run(*train(folder, place, "quantised", "--json")).json()
    assert done["difference"]["high"] < 0
    assert engram.verify(place / "quantised").ok
    failure = run(*train(folder, place, "quantised-2", "--train", "all", "--json")).error(2)
    assert "quantised" in failure["message"]
    assert left(place, "quantised-2") == []


def by_torchrun(words):
    """Run a command in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc-per-node", "2", "-m", "engram_cli", *map(str, words)],
        env={**os.environ, **TERMINAL, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_refusal_of_the_first_process_is_no_bug_of_the_second(place, attached):
    unfinished = place / "refused.checkpoints"
    unfinished.mkdir()
    (unfinished / "run.json").write_text('{"steps": 4}')
    done = by_torchrun(train(attached, place, "refused"))
    assert done.returncode != 0
    assert "holds an unfinished run" in done.stderr
    assert "bug in engram" not in done.stderr


@pytest.mark.slow
def test_two_processes_started_by_torchrun(place, attached):
    done = by_torchrun(train(attached, place, "two", "--json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"] == 4 * 2 * 2 * 32
    assert engram.verify(place / "two").ok
    for foreign in ("Warning: ", "warn", "site-packages"):
        assert foreign not in done.stderr.replace("Warning: rows", "")


def test_a_picture_of_the_run(place, attached):
    picture = place / "run.png"
    words = train(attached, place, "drawn", "--plot", picture, "--evaluate-every", 2, "--json")
    answer = run(*words, "-q").json()
    written = (place / "drawn" / TRAINING_LOG_FILE).read_text().splitlines()
    assert answer["log"] == [json.loads(line) for line in written]
    assert ink(picture) > 0.02
    losses, *_, gates = plot_training(answer).axes
    assert lines(losses)["held out, a part"][0] == [2]
    assert set(lines(gates)) == {"layer 1", "layer 2"}
    refused = run(*train(attached, place, "undrawn", "--plot", picture, "--json"))
    assert "already there" in refused.error(3)["message"]
    assert left(place, "undrawn") == []
