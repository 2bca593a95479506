"""`engram gates`: tokens in colours and in a table, files, and what it refuses."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest

from engram.evaluation import read_gates
from support import tiny
from support.cli import on_a_terminal, run
from support.drawn import ink
from support.layouts import random_memory
from support.short_text import TEXT

WORDS = "By the way,\nthe Milky Way é👩"
PAINTED = re.compile(r"\x1b\[([\d;]*)m([^\x1b]*)\x1b\[0m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    return random_memory(base, tmp_path_factory.mktemp("gates") / "attached", "demo")


@pytest.fixture(scope="module")
def expected(folder):
    return read_gates(folder, WORDS).to_dict()


def test_the_json_is_that_of_the_library(folder, expected):
    answer = run("gates", folder, WORDS, "--layer", 1, "--json").json()
    assert answer == expected


def test_a_pipe_gets_a_table(folder, expected):
    lines = run("gates", folder, WORDS).ended().stdout.splitlines()
    assert lines[0].split() == [
        *("position", "id", "token", "gate", "1", "write", "1", "gate", "2", "write", "2"),
        "change",
    ]
    tokens = expected["tokens"]
    for position, (token, line) in enumerate(zip(tokens, lines[1:], strict=False)):
        words = line.split()
        assert words[:2] == [str(position), str(token["id"])]
        assert repr(token["text"]) in line
        gates = [cell for it in token["gates"] for cell in (it["gate"], it["write_norm"])]
        assert words[-5:-1] == [f"{it:.2g}" if i % 2 else f"{it:.3f}" for i, it in enumerate(gates)]
        change = None if token["loss"] is None else token["loss"] - token["loss_off"]
        assert words[-1] == ("-" if change is None else f"{change:+.3f}")
    assert "with the memory less without" in lines[-1]
    only = run("gates", folder, WORDS, "--layer", 2, "--stream", 0).ended().stdout.splitlines()
    assert only[0].split() == ["position", "id", "token", "gate", "2", "write", "2", "change"]


@pytest.fixture
def painted(folder, forks):
    """Runs the command on a terminal of a hundred columns."""
    return partial(on_a_terminal, "gates", folder, forks=forks, COLUMNS="100")


def test_a_terminal_gets_tokens_in_colours(painted, expected):
    written = painted(WORDS, COLORTERM="truecolor", NO_COLOR="")
    blocks = written.split("\n\n")
    texts = [token["text"].replace("\n", "⏎\n") or "∅" for token in expected["tokens"]]
    assert blocks[0].startswith("gate ")
    assert len(blocks) == 4
    for place, (layer_id, block) in enumerate(zip((1, 2), blocks[1:], strict=False)):
        title, _, painted = block.partition("\n")
        assert title.startswith(f"Layer {layer_id}: gates ")
        pieces = PAINTED.findall(painted)
        # Ends of lines have no colours.
        joined = "".join(texts).replace("\n", "")
        assert "".join(text for _, text in pieces) == joined
        gates = [token["gates"][place]["gate"] for token in expected["tokens"]]
        darkness = [-sum(map(int, style.split(";")[-3:])) for style, _ in pieces]
        assert len(pieces) == len(texts)
        by_gate = sorted(range(len(gates)), key=gates.__getitem__)
        assert [darkness[i] for i in by_gate] == sorted(darkness)
    assert "Change of loss" in blocks[3]


def test_fewer_colours_and_none(painted):
    few = painted("the Milky Way", COLORTERM="", NO_COLOR="")
    assert "48;5;" in few
    assert "48;2;" not in few
    none = painted("the Milky Way", COLORTERM="truecolor", NO_COLOR="1")
    assert "\x1b" not in none
    assert none.splitlines()[0].split()[:3] == ["position", "id", "token"]


def test_a_file_is_one_text(folder, tmp_path):
    (tmp_path / "text.txt").write_bytes(b"By the way,\r\n\r\nthe Milky Way\n")
    answer = run("gates", folder, "--file", tmp_path / "text.txt", "--context", 16, "--json").json()
    assert answer["text"] == "By the way,\r\n\r\nthe Milky Way\n"
    assert "windows of up to 16" in answer["notes"][0]
    assert sum(token["loss"] is None for token in answer["tokens"]) == 2


def test_pictures_and_pages_are_written(folder, expected, tmp_path):
    plot, html = tmp_path / "gates.png", tmp_path / "gates.html"
    words = ("gates", folder, WORDS, "--plot", plot, "--html", html)
    done = run(*words).ended()
    assert f"Wrote {plot}." in done.stderr
    assert f"Wrote {html}." in done.stderr
    assert ink(plot) > 0.02
    page = html.read_text()
    assert page.count("<bdi style=") == len(expected["tokens"])
    assert f"engram gates {folder}" in page
    assert run(*words).ended(3).stdout == ""
    run(*words, "--overwrite").ended()


def test_files_are_checked_before_the_model_is_looked_for(tmp_path):
    (tmp_path / "there.html").write_text("kept")
    for words, code, message in (
        (("--plot", tmp_path / "gates.gif"), 2, "A picture is a .png"),
        (("--plot", tmp_path / "none" / "gates.png"), 4, "none does not exist"),
        (("--html", tmp_path / "there.html"), 3, "is already there"),
        (("--html", tmp_path / "gates.txt"), 2, "gates.txt"),
    ):
        failure = run("gates", tmp_path / "none", "a text", *words, "--json").error(code)
        assert message in failure["message"], words
    assert (tmp_path / "there.html").read_text() == "kept"
    assert [file.name for file in tmp_path.iterdir()] == ["there.html"]


def test_what_does_not_go_together_is_refused(folder, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    text = tmp_path / "text.txt"
    for words, code, message in (
        ((), 2, "gates needs a text"),
        (("a", "--file", text), 2, "TEXT and --file exclude each other"),
        (("a", "--text", text, "--corpus", tmp_path), 2, "--text and --corpus exclude"),
        (("a", "--corpus", tmp_path), 2, "holds no tokens"),
        (("--text", text, "--plot", tmp_path / "a.png"), 2, "--plot draws the tokens of a text"),
        (("a", "--tokens", "1K", "--no-eos"), 2, "--eos and --tokens are for --text"),
        (("a", "--layer", 0), 2, "--layer must be a layer with a memory, got 0"),
        (("a", "--stream", 1), 2, "--stream must be below 1"),
        (("a", "--context", 1), 2, "--context must be >= 2"),
        (("a", "--stats", tmp_path / "none.json"), 4, "none.json does not exist"),
        (("--file", tmp_path), 3, "is a folder"),
        (("",), 3, "The text has no tokens"),
        (("a\udcff",), 3, "not valid UTF-8"),
    ):
        failure = run("gates", folder, *words, "--json").error(code)
        assert message in failure["message"], (words, failure)


def test_telling_ngrams_and_statistics(folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("By the way, the Milky Way is wide.\n\n" * 20)
    stats = run("hash", text, "-c", folder, "--stats", "--json").json()
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    words = ("gates", folder, "--text", text, "--tokens", "500", "--top", 2, "--min-count", 4)
    words = (*words, "--no-eos", "--stats", tmp_path / "stats.json")
    answer = run(*words, "--json").json()
    assert len(answer["telling"]) == 6
    shown = run(*words).ended().stdout
    for it in answer["telling"]:
        assert repr(it["text"]) in shown
    assert shown.count("n-grams with the highest mean gates") == 2
    assert "N-grams that help most" in shown
    assert "Heads in the text of stats.json" in shown
    assert answer["notes"][0] in shown
    assert answer["collisions"]["source"] == "stats.json"
    none = run(*words, "--min-count", 10_000).ended().stdout
    assert none.count("none occurs often enough") == 3
    both = run(*words, "--html", tmp_path / "page.html").ended()
    assert (tmp_path / "page.html").is_file()
    assert both.stdout == shown


def test_an_adapter_beside_its_base(folder, tmp_path, tmp_path_factory):
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    run(
        "attach", base, "-c", write_config(tmp_path), "-o", tmp_path / "adapter", "--adapter"
    ).ended()
    answer = run(
        "gates", base, "the way", "--adapter", tmp_path / "adapter", "--tables", "disk", "--json"
    ).json()
    assert answer["target"] == str(tmp_path / "adapter")
    # A new memory adds nothing.
    assert all(token["loss"] == token["loss_off"] for token in answer["tokens"])
    assert {gate["write_norm"] for token in answer["tokens"] for gate in token["gates"]} == {0.0}


def write_config(folder):
    (folder / "memory.yaml").write_text(json.dumps(tiny.memory_config().to_dict()))
    return folder / "memory.yaml"
