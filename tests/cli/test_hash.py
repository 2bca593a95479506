"""`engram hash`: its JSON and text, stdin, notes, and what wrong input gets."""

from __future__ import annotations

import errno
import io
import json
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from engram.config.config_file import write_config
from engram.config.engram_config import EngramConfig
from engram.pictures import plot_statistics
from support.cli import imported_by, run
from support.drawn import ink, lines
from support.paths import BPE, WORD
from support.short_text import DOCUMENTS, TEXT


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    values = {"tokenizer": str(BPE), "hidden_size": 8, "engram_vocab_size": 544, "k": 3}
    shape = {"n_embed_per_ngram": 8, "n_head_per_ngram": 2, "layer_ids": [4, 1], "pad_id": 2}
    write_config(path, EngramConfig(**values, **shape))
    return path


def test_json(text, config):
    payload = run("hash", text, "-c", config, "--json").json()
    assert next(iter(payload)) == "schema"
    assert payload["schema"] == "engram.hash/1"
    assert payload["documents"] == DOCUMENTS
    assert payload["ids"] == payload["tokens"] * 2 * 4
    assert payload["compressed_vocab_size"] == 447
    assert payload["output"] is None
    assert payload["skipped"] == 0
    assert len(payload["fingerprint"]) == 64
    assert payload["seconds"] > 0 < payload["tokens_per_second"]
    assert [layer["layer_id"] for layer in payload["layers"]] == [4, 1]
    for layer in payload["layers"]:
        assert [(head["order"], head["head"]) for head in layer["heads"]] == [
            (2, 0), (2, 1), (3, 0), (3, 1),
        ]  # fmt: skip
        for head in layer["heads"]:
            assert head["load"] == head["rows_hit"] / head["rows"]
            assert head["collisions"] == head["distinct_ngrams"] - head["rows_hit"]
            assert head["kind"] == "exact"


def test_stdin_equals_the_file(text, config, monkeypatch):
    from_file = run("hash", text, "-c", config, "--stats", "--json").json()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    from_stdin = run("hash", "-", "-c", config, "--stats", "--json").json()
    for payload in (from_file, from_stdin):
        del payload["seconds"], payload["tokens_per_second"]
    assert from_stdin == from_file


def test_the_next_step_hashes_the_same_documents(text, config, tmp_path):
    words = ["hash", text, "-c", config, "--split", "line", "--no-eos"]
    step = run(*words)[2].splitlines()[-1].removeprefix("Next: ")
    counted = run(*words, "--json").json()
    line = step.replace("FOLDER", str(tmp_path / "ids"))
    written = run(*shlex.split(line)[1:], "--json").json()
    assert written["tokens"] == counted["tokens"]
    assert written["documents"] == counted["documents"]


def test_text(text, config):
    code, out, err = run("hash", text, "-c", config)
    notes = ["Tokenised with tokenizers: the text is small."]
    notes.append(f"Next: engram hash {text} -c {config} -o FOLDER")
    assert (code, err.splitlines()) == (0, notes)
    lines = out.splitlines()
    ends = f" tokens in {DOCUMENTS} documents, each ended by <eos> (--no-eos leaves it out)"
    assert lines[0].endswith(ends)
    assert "544 ids, 447 after compression" in lines[2]
    assert [line for line in lines if line.startswith("Layer")] == ["Layer 4", "Layer 1"]
    assert len(out.splitlines()) < len(run("hash", text, "-c", config, "-v")[1].splitlines())


def test_tables_fit_a_terminal(text, config, capsys, monkeypatch):
    from engram_cli.hash_text import show
    from engram_cli.output import Output

    payload = run("hash", text, "-c", config, "--cache-curve", "--json").json()
    for layer in payload["cache"]["layers"]:
        for point in layer["points"]:
            point |= {"rows": 1_234_567, "bytes": dict.fromkeys(point["bytes"], 2**30 - 2**20)}
    monkeypatch.setenv("TERM", "dumb")  # which is 80 columns wide
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for verbose in (False, True):
        Output().result({}, show(payload, verbose))
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        assert not any("\u2026" in line for line in lines)
        assert any("1,234,567 1023 MiB 1023 MiB 1023 MiB 1023 MiB" in line for line in lines)


def test_without_a_config_the_tables_are_sized_for_the_tokenizer(text):
    code, out, err = run("hash", text, "-t", BPE, "--json")
    assert code == 0
    assert "1,088 rows per order (twice its 544 ids)" in err
    assert [layer["layer_id"] for layer in json.loads(out)["layers"]] == [1, 6]
    assert run("hash", text, "-t", BPE, "--json", "-q")[2] == ""
    layers = json.loads(run("hash", text, "-t", BPE, "--layers", "3", "--json")[1])["layers"]
    assert [layer["layer_id"] for layer in layers] == [3]


def test_output(text, config, tmp_path):
    folder = tmp_path / "out"
    payload = run("hash", text, "-c", config, "-o", folder, "--json").json()
    assert payload["output"] == str(folder)
    assert payload["output_bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    ids = np.load(folder / "ids-00000.npy")
    assert ids.shape == (payload["tokens"], 2, 4)
    for layer, heads in zip(np.moveaxis(ids, 1, 0), payload["layers"], strict=True):
        for column, head in zip(layer.T, heads["heads"], strict=True):
            assert len(np.unique(column)) == head["rows_hit"]
    error = run("hash", text, "-c", config, "-o", folder, "--json").error(3)
    assert "--overwrite" in error["hint"]
    code, out, err = run("hash", text, "-c", config, "-o", folder, "--overwrite")
    assert code == 0
    assert "34 bytes per token, about " in err
    assert f"Wrote {folder}: " in out


def test_what_breaks_off_is_resumed(text, config, tmp_path, monkeypatch):
    from engram.corpus.hash import hash_shards

    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    words = ("hash", text, "-c", config, "-o", tmp_path / "out", "--shard-size", "300", "--json")
    whole = run(*words[:5], tmp_path / "whole", *words[6:]).json()
    with monkeypatch.context() as patch:
        patch.setattr(hash_shards, "write_shard", no_room)
        code, out, err = run(*words)
    assert (code, out) == (5, "")
    assert "continue with --resume" in err
    for more, message in (
        (("--resume", "--format", "parquet"), "was started with format npy, not parquet."),
        ((), "There is an unfinished build"),
    ):
        for dry in ((), ("--dry-run",)):
            code, _, err = run(*words[:-1], *more, *dry)
            assert code == 3
            assert message in err
            assert "Finished work is kept" not in err
    payload = run(*words, "--resume", "-j", "2").json()
    assert (payload["was_finished"], payload["resumed_shards"]) == (False, 0)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    result = run(*words, "--resume")
    assert "was finished already" in result[2]
    again = result.json()
    assert again["was_finished"] is True
    for one in (whole, again):
        for key in ("seconds", "tokens_per_second", "output", "was_finished"):
            del one[key]
    assert again == whole


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_ray_gives_the_same_answer(text, config):
    found = []
    for engine in (["local"], ["ray", "-j", "1"]):
        words = ("hash", text, "-c", config, "--json", "--cache-curve", "--engine", *engine)
        found.append(run(*words).json())
        assert found[-1].pop("engine") == engine[0]
        del found[-1]["seconds"], found[-1]["tokens_per_second"]
    assert found[0] == found[1]


def test_ray_that_is_not_there(text, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    error = run("hash", text, "-c", config, "--engine", "ray", "--json").error(4)
    assert error["hint"] == "pip install 'engram-toolkit[ray]'"


def test_dry_run_writes_nothing(text, config, tmp_path):
    folder = tmp_path / "out"
    payload = run("hash", text, "-c", config, "-o", folder, "--dry-run", "--json").json()
    assert payload["dry_run"] is True
    assert payload["bytes_per_token"] == 2 + 4 * 2 * 4
    assert payload["estimated_bytes"] > len(TEXT)
    assert not folder.exists()
    assert "34 bytes per token" in run("hash", text, "-c", config, "-o", folder, "--dry-run")[1]


def test_skipped_documents_are_counted_and_listed(tmp_path, config):
    path = tmp_path / "bad.txt"
    path.write_bytes(TEXT.encode() + b"\n\nbad \xff\n\ngood")
    error = run("hash", path, "-c", config, "--json").error(3)
    assert f"{path}:123: byte " in error["message"]
    assert "--on-error skip" in error["hint"]
    code, out, err = run("hash", path, "-c", config, "--on-error", "skip", "--json")
    assert code == 0
    assert "1 document was skipped:" in err
    assert f"{path}:123" in err
    payload = json.loads(out)
    assert (payload["documents"], payload["skipped"]) == (DOCUMENTS + 1, 1)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("none.txt", "-t", BPE), 4),
        (("empty.txt", "-t", BPE), 3),
        (("folder", "-t", BPE), 3),
        (("text.txt", "-t", "no/such/tokenizer"), 4),
        (("text.txt", "-c", "config.yaml", "-t", WORD), 5),
        (("text.txt", "-c", "no-such-template"), 4),
        (("text.txt", "-t", WORD), 3),
        (("text.txt", "-t", BPE, "--text-column", "text"), 2),
        (("text.txt", "-t", BPE, "--layers", "one"), 2),
        (("text.txt", "-t", BPE, "--stats", "-o", "out"), 2),
        (("text.txt", "-t", BPE, "--dry-run"), 2),
        (("text.txt", "-t", BPE, "--resume"), 2),
        (("-", "-t", BPE, "-o", "out", "--resume"), 2),
        (("-", "-t", BPE, "--engine", "ray"), 2),
        (("text.txt", "-t", BPE, "--address", "auto"), 2),
        (("text.txt", "-t", BPE, "--engine", "ray", "--address", "ray://host:1"), 2),
        (("text.txt", "-t", BPE, "--predict", "soon"), 2),
        (("text.txt", "-t", BPE, "--predict", "999"), 2),
        (("text.txt", "-t", BPE, "--cache-tokens", "1000"), 2),
        (("text.txt", "-t", BPE, "-j", "0"), 2),
        (("text.txt", "-t", BPE, "--split", "page"), 2),
        (("text.txt", "-t", BPE, "-o", "text.txt", "--overwrite"), 3),
        (("text.txt", "-t", BPE, "-o", "text.txt/out"), 3),
        (("text.txt", "-t", BPE, "-o", "folder/sub/out", "--format", "csv"), 2),
    ],
)
def test_wrong_calls(text, config, tmp_path, monkeypatch, words, code):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    error = run("hash", *words, "--json").error(code)
    assert error["message"]
    assert sorted(tmp_path.rglob("*")) == before


def test_read_only_folder(text, config, tmp_path, monkeypatch):
    def refuse(path, *_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    error = run("hash", text, "-c", config, "-o", tmp_path / "out", "--json").error(3)
    assert str(tmp_path) in error["message"]


def test_neither_torch_nor_transformers_is_imported(text, config):
    done, modules = imported_by("hash", text, "-c", config, "--json", "-q")
    assert done.ended().stderr == ""
    assert not modules & {"torch", "transformers", "sympy", "matplotlib", "ray"}


@pytest.mark.parametrize(
    "options", [["--overwrite"], ["--format", "parquet"], ["--shard-size", "100"]]
)
def test_options_for_what_is_written_need_a_place(text, options):
    code, _, err = run("hash", text, "-t", BPE, *options)
    assert code == 2
    assert "are for what -o writes" in err


def test_options_for_text_are_refused_for_tokens(text, tmp_path):
    assert run("corpus", "build", text, "-t", BPE, "-o", tmp_path / "tokens")[0] == 0
    for options in (["--on-error", "skip"], ["--split", "line"], ["--eos"]):
        code, _, err = run("hash", tmp_path / "tokens", "-t", BPE, *options)
        assert code == 2
        assert options[0] in err


def test_an_unfinished_build_without_a_mark_is_left_to_the_user(text, tmp_path):
    work = tmp_path / ".tokens.building"
    work.mkdir()
    (work / "job.json").write_text("{}")
    for more in ([], ["--resume"], ["--overwrite"]):
        code, _, err = run("corpus", "build", text, "-t", BPE, "-o", tmp_path / "tokens", *more)
        assert code == 3
        assert "a version without marks" in err
        assert (work / "job.json").exists()


def test_a_picture_of_the_statistics(text, config, tmp_path):
    picture = tmp_path / "stats.png"
    words = ["hash", text, "-c", config, "--stats", "--cache-curve", "--plot", picture, "--json"]
    answer = run(*words).json()
    assert ink(picture) > 0.02
    drawn = lines(plot_statistics(answer).axes[0])
    assert set(drawn) == {"layer 4", "layer 1"}
    assert "already there" in run(*words).error(3)["message"]
    before = picture.read_bytes()
    assert run(*words, "--overwrite").json()["tokens"] == answer["tokens"]
    assert picture.read_bytes() == before
    ids = ["hash", text, "-c", config, "-o", tmp_path / "ids", "--plot", tmp_path / "ids.svg"]
    run(*ids).ended()
    assert (tmp_path / "ids.svg").read_text().startswith("<?xml")
