"""`engram eval`: what it prints, what it refuses, its bar, and Ctrl-C."""

from __future__ import annotations

import signal

import pytest

from engram.evaluation.measured_runs import MeasuredRuns
from support import evaluated, tiny
from support.cli import on_a_terminal, run

SHORT = ("--tokens", "600", "--context", "24", "--bootstrap", "50")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return evaluated.place(tmp_path_factory)


@pytest.fixture(scope="module")
def out(place):
    return place.trained("out")


def test_people_are_told_the_answer_and_then_the_tables(place, out):
    more = ("--against", place.trained("frozen", control="frozen-random"), "--seen", place.text)
    needles = ("--needles", "1", "--needle-context", "100")
    done = run("eval", out, "--text", place.text, *SHORT, *more, *needles).ended(0)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("On held-out text the memory lowers the loss by ")
    assert "Beside frozen it " in lines[0]
    for heading in (
        *("held out  ", "trained on  ", f"occurrences in {place.text}", "n-gram before it"),
        *("part of a word", "tokens before it in the window", "needles (1 in each of"),
        "layer  ",
    ):
        assert sum(line.startswith(heading) for line in lines) == 1, heading
    runs = [line.split("  ")[0] for line in lines[2:8]]
    assert runs == ["held out", "memory on", "memory off", "rows permuted", "base", "frozen"]
    (row,) = [line for line in lines if line.startswith("memory off  ")][:1]
    assert row.split()[5].startswith("-")
    assert "documents, " in done.stdout
    assert "on text of its training than on held-out text." in done.stdout
    assert "check of wiring alone" in lines[-2]
    assert done.stderr == ""


def test_programs_get_one_object_and_nothing_else(place, out):
    done = run("eval", out, "--text", place.text, *SHORT, "--json")
    found = done.json()
    assert found["schema"] == "engram.eval/1"
    assert found["split"] == "held_out"
    assert done.stderr == ""


def test_an_adapter_and_token_shards(place, tmp_path):
    tiny.attached_model(place.base, tmp_path / "adapter", adapter=True)
    tokens = tmp_path / "tokens"
    run("corpus", "build", place.text, "-t", place.base, "-o", tokens, "-q").ended(0)
    words = ["eval", place.base, "--adapter", tmp_path / "adapter"]
    words += ["--corpus", tokens, *SHORT, "--json"]
    found = run(*words, "--tables", "disk").json()
    assert found["target"] == str(tmp_path / "adapter")
    assert found["text"] == str(tokens)
    assert found["runs"]["on"] == found["runs"]["off"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "--text or --corpus"),
        (["--text", "{text}", "--corpus", "{text}"], 2, "exclude each other"),
        (["--corpus", "{text}"], 2, "Give texts with --text"),
        (["--text", "nothing"], 4, "does not exist"),
        (["--text", "{text}", "--context", "1"], 2, "--context"),
        (["--text", "{text}", "--tokens", "1"], 2, "--tokens must be >= 2"),
        (["--text", "{text}", "--tokens", "many"], 2, "'many' is not a count"),
        (["--text", "{text}", "--needles", "40"], 2, "--needle-context"),
        (["--text", "{text}", "--against", "./nothing"], 4, "nothing"),
        (["--text", "{text}", "--against", "{text}"], 3, "text.txt"),
        (["--text", "{text}", "--base", "{attached}/config.json"], 3, "config.json"),
        (["--text", "{text}", "--seen", "nothing"], 4, "does not exist"),
        (["--text", "{text}", "--html", "{text}"], 2, ".html"),
    ],
)
def test_what_is_wrong_is_named(place, words, code, said):
    given = [word.format(text=place.text, attached=place.attached) for word in words]
    failure = run("eval", place.attached, *given, "--json").error(code)
    assert said in failure["message"] + failure["hint"]
    assert "bug" not in failure["message"]


def test_a_model_without_a_memory_is_refused(place):
    failure = run("eval", place.base, "--text", place.text, "--json").error(3)
    assert "has no memory" in failure["message"]


def test_ctrl_c_ends_it_and_leaves_nothing(place, tmp_path, monkeypatch):
    measure = MeasuredRuns.measure

    def interrupt(self, name, *more):
        if name == "off":
            signal.raise_signal(signal.SIGINT)
        measure(self, name, *more)

    monkeypatch.setattr(MeasuredRuns, "measure", interrupt)
    page = tmp_path / "page.html"
    done = run("eval", place.attached, "--text", place.text, *SHORT, "--html", page)
    assert done == (130, "", "Interrupted.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_page_is_written_too(place, out, tmp_path):
    page = tmp_path / "page.html"
    words = ["eval", out, "--text", place.text, *SHORT, "--html", page]
    told = run(*words).ended(0).stdout
    assert told.startswith("On held-out text")
    assert page.read_text().lower().startswith("<!doctype html>")
    before = page.read_bytes()
    assert "--overwrite" in run(*words).ended(3).stderr
    run(*words, "--overwrite").ended(0)
    assert page.read_bytes() == before


def test_a_terminal_gets_a_bar_of_tokens(place, forks):
    text = on_a_terminal(
        "eval",
        place.attached,
        "--text",
        place.text,
        "--context",
        "24",
        stream="stderr",
        forks=forks,
        COLUMNS="200",
    )
    assert "Reading" in text
    assert "tokens / " in text
    assert "B/s" not in text
    for foreign in ("transformers", "Loading", "site-packages"):
        assert foreign not in text
