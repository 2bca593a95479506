"""`engram constants` and `engram golden`: answers, refusals, and what they import."""

from __future__ import annotations

import json
import subprocess

import pytest

import engram
from engram.checkpoints.convert.convert import convert
from support import tiny
from support.cli import Result, command, imported_by, run, run_apart
from support.hub import Hub, hub_environment, serving
from support.layouts import LAYOUTS, layout_config, random_memory
from support.paths import BPE
from support.qwen import qwen_release

COMMANDS = ("constants", "golden")
each_command = pytest.mark.parametrize("name", COMMANDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a config and an attached model of every layout."""
    folder = tmp_path_factory.mktemp("engines")
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    for layout in LAYOUTS:
        config = layout_config(layout, tokenizer=str(BPE))
        engram.write_config(folder / f"{layout}.yaml", config)
        random_memory(base, folder / layout, layout)
    engram.write_config(folder / "bare.yaml", layout_config("demo"))
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
@each_command
def test_the_answer_in_a_pipe(folder, name, layout, tmp_path):
    done, imported = imported_by(name, folder / layout, "-o", tmp_path / "out", "--json")
    answer = done.json()
    assert answer["schema"] == f"engram.{name}/1"
    assert done.stderr.strip() == ""
    assert not {"torch", "transformers"} & imported
    stated = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert stated["schema"] == answer["schema"]
    same = {"target", "layout", "fingerprint", "map_sha256", "files"}
    assert {key: answer[key] for key in same} == {key: stated[key] for key in same}
    assert answer["output"] == str(tmp_path / "out")
    if name == "constants":
        assert {key: answer[key] for key in stated} == stated
    else:
        assert answer["row_ids"] > 1000
        assert [case["name"] for case in answer["cases"]] == [
            case["name"] for case in stated["cases"]
        ]
        assert {row["layer_id"] for row in answer["row_values"]} == {1, 2}
        assert answer["module"] is False


@each_command
def test_a_config_and_a_folder_have_one_fingerprint(folder, name, tmp_path):
    for layout in LAYOUTS:
        answers = [
            run(name, target, *more, "-o", tmp_path / f"{layout}{i}", "--json").json()
            for i, (target, more) in enumerate(
                [
                    (folder / f"{layout}.yaml", ()),
                    (folder / layout, ()),
                    (folder / layout, ("-t", BPE)),
                ]
            )
        ]
        assert len({answer["fingerprint"] for answer in answers}) == 1
    bare = (name, folder / "bare.yaml", "-o", tmp_path / "bare", "--json")
    assert run(*bare, "-t", BPE).json()["layout"] == "demo"


def test_a_table_of_what_was_written(folder, tmp_path):
    done = run("constants", folder / "demo", "-o", tmp_path / "out").ended()
    answer = run("constants", folder / "demo", "-o", tmp_path / "two", "--json").json()
    for file in answer["files"]:
        assert file["name"] in done.stdout
        assert f"{file['bytes']:,}" in done.stdout
    assert answer["fingerprint"] in done.stdout
    assert answer["map_sha256"] in done.stdout
    assert "Next: engram golden" in done.stderr
    shown = run("constants", folder / "qwen_ple", "-o", tmp_path / "qwen").ended().stdout
    assert "Left out: engram_token_map.bin" in shown
    shown = run("golden", folder / "demo", "-o", tmp_path / "golden", "--module").ended().stdout
    assert "speculative_rollback" in shown
    assert "rows of its tables, outputs of a small module" in shown


@each_command
def test_what_is_wrong_is_said_and_nothing_is_written(folder, name, tmp_path):
    out = ("-o", tmp_path / "out", "--json")
    assert "-o FOLDER" in run(name, folder / "demo", "--json").error(2)["hint"]
    failed = run(name, folder / "bare.yaml", *out).error(3)
    assert "does not name a tokenizer" in failed["message"]
    assert "-t" in failed["hint"]
    failed = run(name, folder / "nowhere", *out).error(4)
    assert "nowhere" in failed["message"]
    failed = run(name, "gpt-2", *out).error(4)
    assert "Did you mean gpt2?" in failed["hint"]
    base = run(name, tiny.base_model("llama", tmp_path / "base"), *out).error(3)
    assert "memory" in base["message"]
    assert not (tmp_path / "out").exists()
    run(name, folder / "demo", *out).json()
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    failed = run(name, folder / "qwen_ple", *out).error(3)
    assert "--overwrite" in failed["hint"]
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert run(name, folder / "qwen_ple", *out, "--overwrite").json()["layout"] == "qwen_ple"


@each_command
def test_adapters_and_state_dicts(folder, name, tmp_path):
    """Neither holds a tokenizer: an adapter has the token map, a state dict needs to be told."""
    base = tiny.base_model("llama", tmp_path / "base")
    engram.attach(base, folder / "demo.yaml", tmp_path / "adapter", adapter=True, init="paper")
    convert(folder / "demo", tmp_path / "published", "demo")
    (state,) = (tmp_path / "published").glob("*.safetensors")
    state = state.rename(tmp_path / "state.safetensors")
    known = run(name, folder / "demo", "-o", tmp_path / "whole", "--json").json()
    for i, words in enumerate(
        [("adapter",), ("state.safetensors", "-c", folder / "demo.yaml", "-t", BPE)]
    ):
        target = tmp_path / words[0]
        answer = run(name, target, *words[1:], "-o", tmp_path / str(i), "--json").json()
        assert answer["fingerprint"] == known["fingerprint"]
        assert len(answer.get("row_values", [])) == len(known.get("row_values", []))
    failed = run(name, folder / "demo", "-c", folder / "demo.yaml", "-o", tmp_path / "x", "--json")
    assert "leave -c" in failed.error(2)["message"]


@each_command
def test_a_release_on_the_hub(name, tmp_path):
    """Only its config, its headers and its buffers travel: the hub refuses to send more."""
    with serving(Hub, tmp_path / "hub") as hub:
        local = qwen_release(hub.root / "qwen" / "flash")
        (tmp_path / "home").mkdir()
        environment = hub_environment(hub, tmp_path / "home")
        words = (name, "qwen/flash", "-o", tmp_path / "out", "--json")
        answer = run_apart(*words, environment=environment, cwd=tmp_path).json()
    known = run(name, local, "-o", tmp_path / "local", "--json").json()
    assert answer["fingerprint"] == known["fingerprint"]
    if name == "golden":
        assert (answer["row_values"], answer["row_ids"]) == ([], known["row_ids"])
        assert known["row_values"]


def test_a_pipe_that_closes_early(folder, tmp_path):
    words = command("constants", folder / "demo", "-o", tmp_path / "out", "--json")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=120) == 0
    assert (tmp_path / "out" / "constants.json").is_file()


def test_module_takes_torch(folder, forks, tmp_path):
    words = ("golden", folder / "demo.yaml", "-o", "out", "--module", "--json")
    done = forks.run(words, tmp_path)
    assert Result(done.code, done.stdout, done.stderr).json()["module"] is True
    assert json.loads((tmp_path / "out" / "golden.json").read_text())["row_values"] == []
