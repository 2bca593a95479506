"""The engines in examples/ compute the exported row ids, and say so where they are other ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

import engram
from support.layouts import LAYOUTS, layout_config
from support.paths import BPE, REPOSITORY

EXAMPLES = REPOSITORY / "examples"
# One that ends documents beside a layout that compresses ids: a rule of the config.
MEMORIES = {
    **{layout: {} for layout in LAYOUTS},
    "demo with ends": {"layout": "demo", "eos_id": 1, "ends_after_eos": True},
    "deepseek_v41 with ends": {"layout": "deepseek_v41", "eos_id": 1, "ends_after_eos": True},
    "one layer, two orders": {
        "layout": "demo",
        "layer_ids": [0],
        "max_ngram_size": 3,
        "n_head_per_ngram": 4,
        "engram_table_size": [304, 408],
    },
}
each_memory = pytest.mark.parametrize("name", MEMORIES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By memory: the folders of its constants and of its vectors."""
    folder = tmp_path_factory.mktemp("engines")
    for name, changes in MEMORIES.items():
        layout = changes.get("layout", name)
        values = {key: value for key, value in changes.items() if key != "layout"}
        config = folder / f"{name}.yaml"
        engram.write_config(config, layout_config(layout, tokenizer=str(BPE), **values))
        engram.export_constants(config, folder / name / "constants")
        engram.export_golden(config, folder / name / "golden")
    return folder


def run(*words, **options):
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **options
    )


def in_c(constants, golden, tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    source, program = EXAMPLES / "engine-c" / "engram_rows.c", tmp_path / "engram_rows"
    strict = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", constants)
    built = run("gcc", *strict, source, "-o", program)
    assert built.returncode == 0, built.stderr
    return run(program, golden / "golden.txt")


def in_python(constants, golden, tmp_path):
    script = EXAMPLES / "engine-python" / "engram_rows.py"
    return run(sys.executable, "-I", "-S", script, constants, golden, cwd=tmp_path)


def in_javascript(constants, golden, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    return run("node", EXAMPLES / "engine-js" / "engram_rows.js", constants, golden)


each_engine = pytest.mark.parametrize(
    "engine", [in_c, in_python, in_javascript], ids=lambda engine: engine.__name__
)


@each_memory
@each_engine
def test_an_engine_computes_the_rows(exported, engine, name, tmp_path):
    done = engine(exported / name / "constants", exported / name / "golden", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    vectors = json.loads((exported / name / "golden" / "golden.json").read_text())
    count = sum(
        len(columns)
        for case in vectors["cases"]
        for step in case["steps"]
        for layers in step["rows"]
        for columns in layers
    )
    assert done.stdout == f"{vectors['layout']}: {count} row ids are equal\n"


@each_engine
@pytest.mark.parametrize("rows_of", ["another seed", "another fill", "one row"])
def test_an_engine_tells_other_rows(exported, engine, rows_of, tmp_path):
    golden = tmp_path / "golden"
    if rows_of == "one row":
        shutil.copytree(exported / "demo" / "golden", golden)
        vectors = json.loads((golden / "golden.json").read_text())
        vectors["cases"][-1]["steps"][-1]["rows"][-1][-1][-1] += 1
        (golden / "golden.json").write_text(json.dumps(vectors))
        *lines, last = (golden / "golden.txt").read_text().splitlines()
        *numbers, row = last.split()
        (golden / "golden.txt").write_text("\n".join([*lines, *numbers, str(int(row) + 1)]))
    else:
        changes = {"seed": 4} if rows_of == "another seed" else {"pad_id": 3}
        config = tmp_path / "other.yaml"
        engram.write_config(config, layout_config("demo", tokenizer=str(BPE), **changes))
        engram.export_golden(config, golden)
    done = engine(exported / "demo" / "constants", golden, tmp_path)
    assert done.returncode == 1
    assert "reads other rows" in done.stdout + done.stderr


def test_the_engines_are_short():
    for name, most in (("c/engram_rows.c", 90), ("python/engram_rows.py", 75)):
        text = (EXAMPLES / f"engine-{name}").read_text()
        assert len(text.splitlines()) <= most
        assert "import engram" not in text
