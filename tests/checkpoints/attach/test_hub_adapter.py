"""Adapters on the hub: pushed, pinned and loaded again, at a stand-in on the loopback."""

from __future__ import annotations

import base64
import json
import shutil

import pytest

from engram.checkpoints.attach import attach
from engram.checkpoints.read.base_checkpoint import read_base, snapshot_of
from engram.checkpoints.read.joined_adapter import open_adapter, pinned_revision
from engram.checkpoints.read.load_checkpoint import load
from engram.errors import MismatchError, MissingFileError, UsageError
from support import tiny
from support.hub import COMMIT, ModelHub, run_python, serving


class UploadHub(ModelHub):
    """Takes uploads as well: every file in the body of the commit."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            (self.server.root / name).mkdir(exist_ok=True)
            return self.reply({"url": f"http://127.0.0.1:{self.server.server_port}/{name}"})
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            kind = {"uploadMode": "regular", "shouldIgnore": False}
            return self.reply({"files": [{"path": file["path"], **kind} for file in files]})
        if "/commit/" in path:
            repo = path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    content = base64.b64decode(item["value"]["content"])
                    (self.server.root / repo / item["value"]["path"]).write_bytes(content)
            url = f"http://127.0.0.1:{self.server.server_port}/{repo}/commit/{COMMIT}"
            return self.reply({"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        return self.reply({"errors": [], "warnings": []})

    def reply(self, answer):
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(tmp_path, tmp_path_factory):
    base, _ = tiny.family_folders("llama", tmp_path_factory)
    (tmp_path / "hub" / "someone").mkdir(parents=True)
    (tmp_path / "hub" / "someone" / "base").symlink_to(base)
    with serving(UploadHub, tmp_path / "hub") as server:
        yield server


SCRIPT = """
import json, sys
import torch
import engram
from pathlib import Path
from engram.checkpoints.attach import attach
from engram.checkpoints.attach.push import push_to_hub
from engram.config.engram_config import EngramConfig

config = EngramConfig.from_dict(json.loads(sys.argv[1]))
attach.attach("someone/base", config, "memory", adapter=True)
Path("memory/private.txt").write_text("not to be pushed")
commit = push_to_hub("memory", "someone/memory")
ids = torch.tensor([[5, 9, 2, 31, 17]])
here = engram.load("someone/base", "memory")
there = engram.load("someone/base", "someone/memory", adapter_revision=commit)
assert torch.equal(here(ids).logits, there(ids).logits)
there.push_to_hub("someone/whole", token="none")
whole = engram.load("someone/whole", revision="v1")
assert torch.equal(here(ids).logits, whole(ids).logits)
print(json.dumps([commit, type(whole).__name__]))
"""


def test_an_adapter_is_pushed_and_loaded_from_there(hub, tmp_path):
    config = json.dumps(tiny.memory_config().to_dict())
    done = run_python(hub, tmp_path, "-c", SCRIPT, config, HF_TOKEN="none")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [COMMIT, "EngramLlamaForCausalLM"]
    pushed = {path.name for path in (hub.root / "someone" / "memory").iterdir()}
    weights = {"engram-00001-of-00001.safetensors", "model.safetensors.index.json"}
    assert pushed == {"engram_adapter.json", "modeling_engram.py", "README.md", *weights}
    stated = json.loads((hub.root / "someone" / "memory" / "engram_adapter.json").read_text())
    assert stated["base"]["hub_id"] == stated["base"]["name"] == "someone/base"
    assert stated["base"]["revision"] == COMMIT
    card = (hub.root / "someone" / "memory" / "README.md").read_text()
    assert "\nbase_model: someone/base\nbase_model_relation: adapter\n" in card
    assert 'engram.load("someone/base", "path/to/this/folder")' in card


@pytest.fixture
def cached(tmp_path, tmp_path_factory):
    """A base in two commits of the hub's cache, and an adapter of the first."""
    base, _ = tiny.family_folders("llama", tmp_path_factory)
    root = tmp_path / "models--org--name" / "snapshots"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(base, root / commit)
    attach.attach(root / ("a" * 40), tiny.memory_config(), tmp_path / "memory", adapter=True)
    return root, tmp_path / "memory"


def test_an_adapter_names_the_commit_of_its_base(cached, tmp_path):
    root, adapter = cached
    assert snapshot_of(root / ("a" * 40)) == ("org/name", "a" * 40)
    assert snapshot_of(tmp_path) == (None, None)
    assert read_base(root / ("b" * 40)).name == "org/name"
    memory = open_adapter(adapter)
    assert memory.adapter["base"]["revision"] == "a" * 40
    assert pinned_revision("org/name", memory) == "a" * 40
    assert pinned_revision("org/other", memory) is None


def test_another_commit_of_the_base_is_refused(cached):
    root, adapter = cached
    load(root / ("a" * 40), adapter)
    with pytest.raises(MismatchError, match=f"at commit {'a' * 40}, not at {'b' * 40}"):
        load(root / ("b" * 40), adapter)


def test_what_is_no_adapter_is_not_pushed(cached, tmp_path):
    from engram.checkpoints.attach.push import push_to_hub

    with pytest.raises(MissingFileError, match="is not an adapter"):
        push_to_hub(tmp_path, "someone/memory")
    with pytest.raises(UsageError, match="there is no adapter"):
        load(tmp_path, adapter_revision="main")


def test_cards_say_how_they_are_loaded(cached, tmp_path):
    root, adapter = cached
    card = (adapter / "README.md").read_text()
    assert 'engram.load("org/name", "path/to/this/folder")' in card
    assert "from_pretrained" not in card
    attach.attach(root / ("a" * 40), tiny.memory_config(), tmp_path / "whole")
    whole = (tmp_path / "whole" / "README.md").read_text()
    assert "\nbase_model: org/name\ntags" in whole
    assert 'engram.load("path/to/this/folder")' in whole
    plain = tiny.attached_model(
        shutil.copytree(root / ("a" * 40), tmp_path / "mine"), tmp_path / "x"
    )
    assert "base_model" not in (plain / "README.md").read_text()
