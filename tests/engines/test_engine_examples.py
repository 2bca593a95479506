"""The engines in examples/ compute the exported row ids, and say so where they are other ones."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engram
from engram.engines.golden_cases import Case, Step, read_case
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


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_that_was_cut_short_is_no_success(exported, name, tmp_path):
    lines = (exported / name / "golden" / "golden.txt").read_text().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if line[0].isalpha())
    for end in (last, len(lines) - 1):
        (tmp_path / "golden.txt").write_text("".join(lines[:end]))
        done = in_c(exported / name / "constants", tmp_path, tmp_path)
        assert (done.returncode, done.stderr) == (2, "golden.txt ends early\n")


@each_memory
@given(data=st.data())
def test_any_text_is_read_as_the_library_does(exported, name, data):
    """The plain reader and the library's reference: dead positions, starts, ends, anything."""
    memory = json.loads((exported / name / "constants" / "constants.json").read_text())
    engine = runpy.run_path(str(EXAMPLES / "engine-python" / "engram_rows.py"))
    addresses = engram.EngramTokenizer(engram.load_config(exported / f"{name}.yaml"), BPE).addresses
    token = st.integers(0, 3) | st.integers(0, memory["raw_vocab_size"] - 1) | st.just(-1)
    ids = data.draw(st.lists(token, min_size=1, max_size=12))
    alive = [i for i, token_id in enumerate(ids) if token_id >= 0]
    starts = data.draw(st.sets(st.sampled_from(alive))) if alive else set()
    (reading,) = read_case(addresses, Case("", "", (Step(0, tuple(ids), tuple(starts)),)))
    text = [
        (token_id, hashed, int(i in starts))
        for i, (token_id, hashed) in enumerate(
            zip(ids, reading.compressed_ids.tolist(), strict=True)
        )
    ]
    for t in range(len(ids)):
        slots = engine["look_back"](memory, text, t)
        found = [engine["rows_of"](layer, slots) for layer in memory["layers"]]
        assert found == reading.rows[t].tolist()
    kept = alive if memory["rule"]["skips_dead_tokens"] else range(len(ids))
    if kept:  # what a token after the last one would read beside itself
        after = [*text, (0, 0, 0)]
        assert engine["look_back"](memory, after, len(ids))[:0:-1] == reading.history.tolist()


def test_the_lines_of_the_page_run(exported, tmp_path):
    if shutil.which("gcc") is None or shutil.which("node") is None:
        pytest.skip("there is no gcc, or no node")
    page = (REPOSITORY / "docs" / "how-to" / "engines.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    for name in ("constants", "golden"):
        shutil.copytree(exported / "demo" / name, tmp_path / name)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    python = f"python() {{ '{sys.executable}' \"$@\"; }}\n"
    done = run("sh", "-e", "-c", python + block, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.splitlines())) == 1
    assert done.stdout.count("row ids are equal") == 3


def test_the_engines_are_short():
    for name, most in (("c/engram_rows.c", 80), ("python/engram_rows.py", 65)):
        text = (EXAMPLES / f"engine-{name}").read_text()
        assert len(text.splitlines()) <= most
        assert "import engram" not in text
