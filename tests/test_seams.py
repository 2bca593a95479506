"""A dependency that breaks what the toolkit relies on is one error that names it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from transformers import GenerationMixin, PreTrainedModel

import engram_cli.compat
import engram_cli.main
from engram import seams
from engram.errors import DependencyError
from engram.hf import compat

PACKAGE = Path(engram_cli.compat.__file__).parents[1]
SEAM_FILES = {"engram/hf/compat.py", "engram/nn/compat.py", "engram_cli/compat.py"}


def broken_generate(self, input_ids, memo=None):
    raise AssertionError("never called")


@pytest.fixture
def broken(monkeypatch):
    monkeypatch.setattr(GenerationMixin, "prepare_inputs_for_generation", broken_generate)
    monkeypatch.delattr(PreTrainedModel, "_load_pretrained_model")


def test_every_seam_holds_here():
    for package in (compat, engram_cli.compat, sys.modules["engram.nn.compat"]):
        for found in seams.probe(package.PACKAGE, package.SEAMS):
            assert found.problem is None, found
            assert found.seam.name
            assert found.seam.reason


@pytest.mark.usefixtures("broken")
def test_one_error_names_seams_version_and_range():
    with pytest.raises(DependencyError) as caught:
        compat.check()
    message = str(caught.value)
    assert "prepare_inputs_for_generation" in message
    assert "_load_pretrained_model" in message
    assert f"transformers {seams.installed_version('transformers')}" in message
    stated = seams.tested_range("transformers")
    assert f"pip install 'transformers{stated}'" in message
    assert ">=" in stated
    assert len(caught.value.details["seams"]) == 2


def test_a_probe_that_raises_is_a_finding():
    found = seams.probe("x", [seams.Seam("a.b", "c", lambda: [][1]), seams.Seam("d", "e", str)])
    assert [it.problem for it in found] == ["IndexError: list index out of range", None]


@pytest.mark.usefixtures("broken")
def test_attach_refuses_before_anything_is_written(tmp_path):
    from engram.checkpoints import attach

    base = tiny.base_model("llama", tmp_path / "base")
    with pytest.raises(DependencyError):
        attach.attach(base, tiny.memory_config(), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_importing_refuses_and_the_probe_lists(tmp_path):
    code = (
        "import transformers.generation as g, sys\n"
        "def broken(self, input_ids): ...\n"
        "g.GenerationMixin.prepare_inputs_for_generation = broken\n"
        "from engram_cli.main import main\n"
        "sys.argv = ['engram', *sys.argv[1:]]\n"
        "main()\n"
    )
    run = [sys.executable, "-c", code, "env", "--probe", "--json"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    probes = json.loads(done.stdout)["probes"]
    wrong = [it for it in probes if not it["ok"]]
    assert [it["package"] for it in wrong] == ["transformers"]
    assert "prepare_inputs_for_generation" in wrong[0]["name"]
    assert {it["package"] for it in probes} == {"torch", "transformers", "typer"}
    refused = [
        sys.executable,
        "-c",
        code.replace("from engram_cli.main", "import engram.hf\nfrom x"),
    ]
    done = subprocess.run(refused, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "DependencyError" in done.stderr


def test_undocumented_names_are_in_the_files_of_seams():
    """Submodules and private attributes of transformers and typer are used nowhere else."""
    private = re.compile(
        r"(?:from|import) transformers\.|from typer\.core|PreTrained\w+\._[a-z]"
        r"|\._(?:attn_implementation|hf_peft_config_loaded|load_pretrained_model|version|"
        r"upload_modified_files|name_or_path|runtime_param|valid_auto_compile_criteria)\b"
    )
    found = {}
    for folder in ("engram", "engram_cli"):
        for path in (PACKAGE / folder).rglob("*.py"):
            name = path.relative_to(PACKAGE).as_posix()
            lines = [line for line in path.read_text().splitlines() if private.search(line)]
            if lines and name not in SEAM_FILES:
                found[name] = lines
    assert found == {}
