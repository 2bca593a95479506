"""`engram depth`: table, answer, JSON and picture of a case whose answer is known."""

from __future__ import annotations

import pytest

from engram.corpus.text.text_options import TextOptions
from engram.evaluation import measure_depth
from engram.evaluation.depth_options import DepthOptions
from support import next_token_memory as known
from support.cli import run
from support.drawn import ink


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    return known.write_models(folder), known.write_source(folder)


def test_the_answer_is_that_early_layers_are_freed(source):
    folder, text = source
    done = run("depth", folder, "--text", text, "--no-eos", "--against", folder.parent / "attached")
    lines = done.ended().stdout.splitlines()
    table = next(number for number, line in enumerate(lines) if line.startswith("layer"))
    headings = lines[table].split("  ")
    assert [it.strip() for it in headings if it][:3] == ["layer", "KL on", "KL base"]
    rows = [line.replace(" memory", "").split() for line in lines[table + 1 : table + 7]]
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert lines[table + 2].startswith("1 memory")
    assert [row[1] for row in rows[1:]] == ["0.0000"] * 5
    assert float(rows[1][2]) > 4
    answer = next(line for line in lines if "nearer to" in line)
    assert "on is nearer to its last prediction than base is: -" in answer
    assert "paired bootstrap" in answer
    assert any("attached and base cannot be distinguished" in line for line in lines)
    assert "Early layers: 1 to 2." in done.stdout
    assert "of 40 documents" in lines[0]


def test_json_is_the_result_of_the_library(source):
    folder, text = source
    words = ("--tokens", 200, "--context", 12, "--nearest", 2, "--seed", 3, "--no-eos", "--json")
    answer = run("depth", folder, "--text", text, *words).json()
    found = measure_depth(
        folder,
        text,
        text=TextOptions(add_eos=False),
        options=DepthOptions(tokens=200, context=12, nearest=2, seed=3),
    )
    assert answer == found.to_dict()
    assert answer["schema"] == "engram.depth/1"
    assert (answer["layers"], answer["context"], answer["nearest"]) == (6, 12, 2)


def test_a_picture_is_drawn_of_the_answer(source, tmp_path):
    folder, text = source
    plot = tmp_path / "depth.png"
    words = ("depth", folder, "--text", text, "--no-eos", "--plot", plot)
    assert "Wrote " in run(*words).ended().stderr
    assert ink(plot) > 0.02
    assert "is already there" in run(*words).ended(3).stderr
    run(*words, "--overwrite").ended()


def test_what_is_missing_or_wrong_is_said_before_a_model_is_loaded(source, tmp_path):
    folder, text = source
    assert "needs something to read: --text or --corpus" in run("depth", folder).ended(2).stderr
    assert "holds no tokens" in run("depth", folder, "--corpus", tmp_path).ended(2).stderr
    words = ("depth", folder, "--text", text)
    assert "A picture is a .png" in run(*words, "--plot", "depth.gif").ended(2).stderr
    assert "--nearest" in run(*words, "--nearest", 0).ended(2).stderr
    assert run(*words, "--tokens", 1, "--json").error(2)["code"] == "usage"
    assert "no memory" in run("depth", folder.parent / "base", "--text", text).ended(3).stderr
