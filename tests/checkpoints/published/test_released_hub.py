"""Checkpoints on the hub, stood in for by a server on the loopback: headers by range requests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from support import sparse_folder, tiny
from support.cli import Result
from support.hub import LIMIT, Hub, hub_environment, serving
from support.paths import TESTS
from support.qwen import qwen_release


@pytest.fixture
def hub(tmp_path):
    with serving(Hub, tmp_path / "hub") as server:
        yield server


ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from support.cli import run
print(json.dumps([run(*words) for words in json.loads(sys.argv[2])]))
"""


def engram(hub, *lines):
    """Run commands in a process of its own: huggingface_hub reads its settings at import."""
    home = hub.root.parent / "home"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", ASK, TESTS, json.dumps([line.split() for line in lines])],
        env={**os.environ, **hub_environment(hub, home)},
        capture_output=True, text=True, timeout=60, check=True, cwd=home,
    )  # fmt: skip
    assert done.stderr == ""
    answers = [Result(*answer) for answer in json.loads(done.stdout)]
    assert "Traceback" not in "".join(err for _, _, err in answers)
    return answers


def checks_of(answer, code=0):
    assert answer[0] == code
    return {check["name"]: check for check in json.loads(answer[1])["checks"]}


def test_headers_and_nothing_else(hub):
    local = sparse_folder.v41(hub.root / "deepseek-ai" / "v41")
    remote, here, verified = engram(
        hub,
        "report deepseek-ai/v41 --tp 4 --json",
        f"report {local} --tp 4 --json",
        "verify deepseek-ai/v41 --json",
    )
    assert (remote[0], remote[2]) == (0, "")
    found, expected = json.loads(remote[1]), json.loads(here[1])
    assert found["totals"] == expected["totals"]
    assert found["rows"] == expected["rows"]
    assert found["totals"]["table_bytes"] == 202_758_032_400
    # Where rows begin is not known from headers alone.
    assert found["reads"]["disk_pages_per_token"]["kind"] == "estimated"
    assert sum(length for _, length in hub.sent) < LIMIT
    assert {file for file, _ in hub.sent} == {
        "config.json",
        "model.safetensors.index.json",
        *(f"model-{i:05d}-of-00048.safetensors" for i in (1, 47, 48)),
    }
    checks = checks_of(verified)
    assert all(checks[name]["ok"] is True for name in ("tensors", "scales", "rows"))
    assert checks["tokenizer"]["ok"] is None
    assert "lengths were not compared" in checks["files"]["detail"]


def test_buffers_are_read_by_their_range(hub):
    qwen_release(hub.root / "Qwen" / "right")
    folder = qwen_release(hub.root / "Qwen" / "wrong", seed=7)
    (folder / "model-00001-of-00001.safetensors").rename(folder / "model.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    right, wrong, report = engram(
        hub,
        "verify Qwen/right --revision v1 --json",
        "verify Qwen/wrong --json",
        "report Qwen/wrong --json",
    )
    assert checks_of(right)["constants"]["ok"] is True
    constants = checks_of(wrong, code=5)["constants"]
    assert "layer_multipliers[0] is 23703573157769" in constants["detail"]
    assert json.loads(report[1])["layout"] == "qwen_ple"


def test_what_the_hub_does_not_have(hub):
    names = ("lost", "torn", "whole")
    lost, torn, _ = (sparse_folder.v41(hub.root / "deepseek-ai" / name) for name in names)
    shard = "model-00048-of-00048.safetensors"
    (lost / shard).unlink()
    (torn / shard).write_bytes(b"\x08" + b"\0" * 7 + b"not JSON")
    plain = hub.root / "some" / "model"
    plain.mkdir(parents=True)
    (plain / "config.json").write_text('{"model_type": "llama"}')
    no_shard, report, no_header, nothing, no_revision, no_memory, no_model = engram(
        hub,
        "verify deepseek-ai/lost --json",
        "report deepseek-ai/lost --json",
        "verify deepseek-ai/torn --json",
        "verify deepseek-ai/none --json",
        "report deepseek-ai/lost --revision v9 --json",
        "report some/model",
        "report deepseek-ai/whole --model gpt2",
    )
    assert f"{shard} is not in the repository" in checks_of(no_shard, 5)["files"]["detail"]
    assert report[0] == 4
    assert json.loads(report[2])["details"]["missing"] == [shard]
    assert shard in checks_of(no_header, 5)["files"]["detail"]
    for answer in (nothing, no_revision):
        assert answer[0] == 4
        assert "hub" in json.loads(answer[2])["message"]
    assert (no_memory[0], "has no memory" in no_memory[2]) == (3, True)
    assert (no_model[0], "leave --model out" in no_model[2]) == (2, True)


def test_an_attached_checkpoint_on_the_hub(hub, tmp_path_factory):
    attached = tiny.family_folders("llama", tmp_path_factory)[1]
    shutil.copytree(attached, hub.root / "some" / "attached")
    report, here, verified, verified_here = engram(
        hub,
        "report some/attached --json",
        f"report {attached} --json",
        "verify some/attached --headers-only --json",
        f"verify {attached} --headers-only --json",
    )
    found, expected = json.loads(report[1]), json.loads(here[1])
    assert found["target_kind"] == "attached"
    assert (found["rows"], found["totals"]) == (expected["rows"], expected["totals"])
    found, expected = checks_of(verified), checks_of(verified_here)
    assert found["tokenizer"]["ok"]
    assert found.pop("small files")["ok"] is None  # headers are read, and no other files
    assert expected.pop("small files")["ok"]
    assert found == expected


def test_a_server_that_ignores_ranges_is_not_read_whole(hub):
    """A 200 is no 206: its first bytes are the file's, whatever was asked for."""
    qwen_release(hub.root / "Qwen" / "whole")
    hub.ignores_ranges = True
    report, verified = engram(hub, "report Qwen/whole --json", "verify Qwen/whole --json")
    for answer in (report, verified):
        assert answer[0] == 4
        assert "the server sends whole files only" in json.loads(answer[2])["message"]
