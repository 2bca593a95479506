"""A dependency that breaks what the toolkit relies on is one error that names it."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import Cache, GenerationMixin, PreTrainedModel

import engram
import engram_cli.compat
from engram import seams
from engram.checks import run_check
from engram.errors import (
    DependencyError,
    LayoutError,
    MissingError,
    MissingFileError,
    MissingPackageError,
)
from engram.hf import compat
from engram.hf.admission import of_the_base
from support import tiny
from support.cli import Result, run, run_apart

PACKAGE = Path(engram_cli.compat.__file__).parents[1]
SEAM_FILES = {"engram/hf/compat.py", "engram/nn/compat.py", "engram_cli/compat.py"}


def broken_generate(self, input_ids, memo=None):
    raise AssertionError("never called")


@pytest.fixture
def broken(monkeypatch):
    monkeypatch.setattr(GenerationMixin, "prepare_inputs_for_generation", broken_generate)
    monkeypatch.delattr(PreTrainedModel, "_load_pretrained_model")


def test_every_seam_holds_here():
    probed = [*compat.probed(), *engram_cli.compat.probed()]
    assert {found.package for found in probed} == {"torch", "transformers", "typer"}
    for found in probed:
        assert found.problem is None, found
        assert found.seam.name
        assert found.seam.reason


@pytest.mark.parametrize("mode", ["inference", "meta", "no_grad", "float64"])
def test_seams_hold_in_every_mode_of_torch(mode):
    """Probes are made wherever a model is loaded, attached to or imported."""
    modes = {
        "inference": torch.inference_mode(),
        "meta": torch.device("meta"),
        "no_grad": torch.no_grad(),
        "float64": nullcontext(),
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if mode == "float64" else before)
    try:
        with modes[mode]:
            compat.check()
    finally:
        torch.set_default_dtype(before)


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
    # The last one loads a model in the way that the one before it names.
    assert [name.partition("(")[0] for name in caught.value.details["seams"]] == [
        "GenerationMixin.prepare_inputs_for_generation",
        "PreTrainedModel._load_pretrained_model",
        "PreTrainedModel.from_pretrained",
    ]


def test_what_is_not_true_is_a_finding():
    probes = [("raises", lambda: [][1]), ("says nothing", lambda: None), ("holds", lambda: True)]
    found = seams.probe("torch", [seams.Seam(name, "a use", it) for name, it in probes])
    assert [it.problem for it in found] == [
        *("changed: IndexError: list index out of range", "changed", None),
    ]


def test_a_report_says_which_method_broke(monkeypatch):
    monkeypatch.delattr(Cache, "crop")
    with pytest.raises(DependencyError) as caught:
        compat.check()
    assert caught.value.details["seams"] == ["Cache.crop"]
    installed = seams.installed_version("transformers")
    assert caught.value.message == (
        f"transformers {installed} is not supported: Cache.crop changed: AttributeError: type "
        "object 'Cache' has no attribute 'crop' (used for applying changes of a cache to "
        "the memory's past)."
    )


@pytest.fixture
def another_way_of_loading(monkeypatch):
    """A transformers that takes no state dict, so that headers alone load nothing."""
    load = PreTrainedModel.from_pretrained.__func__

    def from_pretrained(cls, name, *args, config=None, tensors=None, **kwargs):
        if "state_dict" in kwargs:
            raise TypeError("unexpected keyword argument 'state_dict'")
        return load(cls, name, *args, config=config, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(from_pretrained))


@pytest.mark.usefixtures("another_way_of_loading")
def test_loading_from_headers_is_a_seam(tmp_path):
    with pytest.raises(DependencyError, match="from_pretrained") as caught:
        compat.check()
    assert len(caught.value.details["seams"]) == 1
    base = tiny.base_model("llama", tmp_path / "base")
    with pytest.raises(DependencyError, match="from_pretrained"), of_the_base(base):
        raise TypeError("unexpected keyword argument 'state_dict'")


def test_a_base_is_blamed_where_the_seams_hold(tmp_path):
    with pytest.raises(LayoutError, match="from its files: TypeError"), of_the_base(tmp_path):
        raise TypeError("rope_theta is a list")


def test_probes_are_quick():
    compat.check()
    start = time.perf_counter()
    compat.check()
    assert time.perf_counter() - start < 0.2


@pytest.mark.usefixtures("broken")
def test_attach_refuses_before_anything_is_written(tmp_path):
    from engram.checkpoints.attach import attach

    base = tiny.base_model("llama", tmp_path / "base")
    with pytest.raises(DependencyError):
        attach.attach(base, tiny.memory_config(), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


@pytest.fixture(scope="module")
def attached(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seams")
    base = tiny.base_model("llama", folder / "base")
    return tiny.attached_model(base, folder / "attached")


@pytest.mark.parametrize("breaking", ["broken", "another_way_of_loading"])
def test_verify_and_load_refuse_before_they_judge(attached, breaking, request):
    request.getfixturevalue(breaking)
    assert run("verify", attached, "--json").error(4)["code"] == "dependency"
    with pytest.raises(DependencyError):
        engram.load(attached)


def test_a_check_lets_errors_of_this_machine_through():
    def check(error):
        raise error

    missing = MissingPackageError("bitsandbytes", None, "Loading")
    for error in (missing, DependencyError("too old"), MissingError("needs another package")):
        with pytest.raises(type(error)):
            run_check("weights", partial(check, error))
    assert run_check("weights", partial(check, MissingFileError("a shard"))).ok is False


@pytest.mark.parametrize(
    ("package", "line"),
    [("torch", "env --probe"), ("transformers", "env --probe"), ("torch", "verify FOLDER")],
)
def test_a_missing_package_is_one_line(attached, package, line):
    words = line.replace("FOLDER", str(attached)).split()
    done = run_apart(*words, before=f"import sys\nsys.modules[{package!r}] = None").ended(4)
    assert done.stdout == ""
    said = done.stderr.splitlines()
    assert f"needs the package {package}, which is not installed." in said[0]
    assert said[1:] == [f"pip install {package}"]


def test_importing_refuses_and_the_probe_lists(forks_without_the_toolkit, tmp_path):
    breaking = (
        "import transformers.generation as g\n"
        "def broken(self, input_ids): ...\n"
        "g.GenerationMixin.prepare_inputs_for_generation = broken\n"
    )

    def run_broken(code):
        done = forks_without_the_toolkit.run([breaking + code], tmp_path, is_program=True)
        return Result(done.code, done.stdout, done.stderr)

    done = run_broken(
        "import sys\n"
        "from engram_cli.main import main\n"
        "sys.argv = ['engram', 'env', '--probe', '--json']\n"
        "main()\n"
    )
    probes = done.json(5)["probes"]
    wrong = [it for it in probes if not it["ok"]]
    assert [it["package"] for it in wrong] == ["transformers"]
    assert "prepare_inputs_for_generation" in wrong[0]["name"]
    assert {it["package"] for it in probes} == {"torch", "transformers", "typer"}
    refused = (
        "try:\n    import engram.hf\nexcept Exception as error:\n    print(type(error).__name__)\n"
    )
    assert run_broken(refused).ended().stdout == "DependencyError\n"


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
