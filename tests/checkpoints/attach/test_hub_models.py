"""Attaching to a model on the hub, and loading an attached one, at a stand-in on loopback."""

from __future__ import annotations

import json

import pytest

from engram.config.config_file import write_config
from support import tiny
from support.forks import Forks
from support.hub import ModelHub, hub_environment, run_python, serving
from support.remote import remote_base


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A stand-in, with a process that knows of no other hub to fork from."""
    base, attached = tiny.family_folders("llama", tmp_path_factory)
    folder = tmp_path_factory.mktemp("hub")
    (folder / "hub" / "someone").mkdir(parents=True)
    (folder / "hub" / "someone" / "base").symlink_to(base)
    (folder / "hub" / "someone" / "attached").symlink_to(attached)
    with (
        serving(ModelHub, folder / "hub") as server,
        Forks(environment=hub_environment(server, folder / "home")) as server.forks,
    ):
        yield server


def test_attach_to_a_model_on_the_hub(hub, tmp_path):
    write_config(tmp_path / "memory.yaml", tiny.memory_config())
    words = ["attach", "someone/base", "-c", "memory.yaml", "-o", "out"]
    done = hub.forks.run([*words, "--revision", "v1", "--link", "--verify", "--json"], tmp_path)
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["max_logit_difference"] == 0
    assert (tmp_path / "out" / "model-00001-of-00001.safetensors").stat().st_nlink > 1


def test_load_an_attached_model_from_the_hub(hub, tmp_path):
    code = "import engram; print(type(engram.load('someone/attached', revision='v1')).__name__)"
    done = hub.forks.run([code], tmp_path, is_program=True)
    assert done.code == 0, done.stderr
    assert done.stdout.split()[-1] == "EngramLlamaForCausalLM"


def test_verify_an_attached_model_on_the_hub(hub, tmp_path):
    words = ["verify", "someone/attached", "--json"]
    done = hub.forks.run([*words, "--revision", "v1"], tmp_path)
    assert done.code == 0, done.stderr
    found = {check["name"]: check["ok"] for check in json.loads(done.stdout)["checks"]}
    assert found["tokenizer"]
    assert found["cached = full"]
    assert found["assisted"]
    done = hub.forks.run([*words, "--revision", "nowhere"], tmp_path)
    assert done.code == 4


def test_a_model_of_the_hub_that_is_code(hub, tmp_path):
    base = remote_base(hub.root / "someone" / "code")
    tiny.attached_model(base, hub.root / "someone" / "wired", trust_remote_code=True)
    write_config(tmp_path / "memory.yaml", tiny.memory_config())
    words = ["attach", "someone/code", "-c", "memory.yaml", "-o", "out"]
    refused = hub.forks.run(words, tmp_path)
    assert refused.code == 3
    assert "--trust-remote-code" in refused.stderr
    done = hub.forks.run([*words, "--trust-remote-code", "--verify", "--json"], tmp_path)
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["max_logit_difference"] == 0
    code = "import engram; engram.load('someone/wired', trust_remote_code=True)"
    done = hub.forks.run([code], tmp_path, is_program=True)
    assert done.code == 0, done.stderr


def test_a_model_that_is_not_there(hub, tmp_path):
    write_config(tmp_path / "memory.yaml", tiny.memory_config())
    words = ["attach", "someone/nothing", "-c", "memory.yaml", "-o", "out"]
    done = hub.forks.run(words, tmp_path)
    assert done.code == 4
    assert "someone/nothing is not a folder here" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_the_cache_holds_loads_without_the_hub(hub, tmp_path):
    code = (
        "import engram, time, torch, transformers.models.llama.modeling_llama;"
        "import engram.hf; start = time.monotonic();"  # a busy machine imports for long
        "print(type(engram.load('someone/attached')).__name__, time.monotonic() - start)"
    )
    assert hub.forks.run([code], tmp_path, is_program=True).code == 0
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(hub.root.parent / "home")}
    done = run_python(hub, tmp_path, "-c", code, **offline)
    assert done.returncode == 0, done.stderr
    name, seconds = done.stdout.split()[-2:]
    assert name == "EngramLlamaForCausalLM"
    assert float(seconds) < 15  # transformers retries for 23 s, and that for several files
