"""Templates: found installed and editable, equal to the published numbers, each one explained."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import engram
from engram.addressing.primes import head_primes
from engram.backbone import load_backbone
from engram.config.config_file import read_values
from engram.config.templates import (
    find_config,
    is_template,
    load_config,
    load_template,
    template_names,
    template_path,
    template_title,
)
from engram.errors import InputError, MissingFileError
from engram.sizing.budget import seed_rule_k, share_budget
from engram.sizing.counts import count_params
from engram.sizing.size import size
from engram.sizing.size_options import SizeOptions
from support.cli import run
from support.paths import REPOSITORY

# Rows of every layer, parameters in tables, first and last prime.
PUBLISHED = {
    "demo": ([10_344_164, 10_348_242], 1_324_313_984, 646_403, 646_879),
    "engram-27b": ([36_199_972, 36_204_260], 5_792_338_560, 2_262_409, 2_262_859),
    "engram-40b": ([115_837_464, 115_841_428], 18_534_311_360, 7_239_691, 7_240_183),
    "deepseek-v4.1-flash": ([384_006_168, 384_016_682], 196_613_849_600, 16_000_057, 16_000_889),
    "qwen3.8-flash-next": ([320_001_536], 51_200_245_760, 20_000_003, 20_000_171),
}
# Templates for models of the catalogue; their k is the largest whole one in a quarter of the whole.
FITTED = {
    "gpt2": "gpt2",
    "llama": "llama-3.2-1b",
    "qwen3": "qwen3-0.6b",
    "smollm2": "smollm2-135m-instruct",
}


def test_the_names():
    assert template_names() == sorted([*PUBLISHED, *FITTED, "tiny"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name):
    rows, table_params, first, last = PUBLISHED[name]
    config = load_template(name)
    counts = count_params(config)
    assert [layer.rows for layer in counts.layers] == rows
    assert counts.table_params == table_params
    primes = [prime for layer in head_primes(config).values() for row in layer for prime in row]
    assert (min(primes), max(primes)) == (first, last)


def test_published_dense_parts():
    assert count_params(load_template("demo")).total_params == 1_334_867_328
    assert count_params(load_template("engram-27b")).layers[0].dense_params == 16_468_480
    assert head_primes(load_template("qwen3.8-flash-next"))[1].layer_id == 1
    assert sum(map(sum, head_primes(load_template("qwen3.8-flash-next"))[1])) == 320_001_446


@pytest.mark.parametrize("name", FITTED)
def test_templates_for_models_of_the_catalogue(name):
    config, backbone = load_template(name), load_backbone(FITTED[name])
    assert config.hidden_size == backbone.hidden_size
    assert config.engram_vocab_size == backbone.tokenizer_vocab_size
    assert config.layer_ids == [1, backbone.num_layers // 2]
    assert config.tokenizer in (backbone.name, backbone.name.rpartition("/")[2])
    budget_params = share_budget(backbone.params)
    sized = size(backbone, SizeOptions(whole_k=True, layers=config.layer_ids))
    assert config.engram_table_size == sized.config.engram_table_size
    assert sized.k <= seed_rule_k(config, budget_params) <= sized.k + 1
    total = sized.counts.total_params
    share = f"{total / (total + backbone.params):.0%}".replace("%", " %")
    title = template_title(name)
    assert f"{total / 1e6:.0f}M parameters" in title
    assert share in title or (share, "a quarter" in title) == ("25 %", True)


def test_tiny_is_tiny():
    assert count_params(load_template("tiny")).total_params < 1_000_000


@pytest.mark.parametrize("name", sorted([*PUBLISHED, *FITTED, "tiny"]))
def test_every_template_explains_itself(name):
    text = template_path(name).read_text(encoding="utf-8")
    head = text.partition("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in head)
    assert len(template_title(name)) < 95
    assert any(line.startswith("# For: ") for line in head)
    assert any(line.startswith("# Sources: ") for line in head)
    assert next(iter(read_values(template_path(name)).items())) == ("schema", 1)
    assert max(map(len, text.splitlines())) <= 100
    # Both meanings of a table's size stand on the line of the one that is the key.
    (line,) = [line for line in text.splitlines() if line.startswith("engram_table_size:")]
    config = load_template(name)
    assert f"{config.rows_per_head[0]:,}" in line
    assert "HEAD" in line


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(MissingFileError) as refusal:
        template_path("engram27b")
    assert refusal.value.hint == "Did you mean engram-27b?"
    with pytest.raises(MissingFileError) as refusal:
        template_path("../pyproject")
    assert "The templates are" in refusal.value.hint


def test_a_file_of_a_templates_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()  # a model's folder hides no template
    assert find_config("gpt2") == template_path("gpt2")
    (tmp_path / "gpt2").rmdir()
    (tmp_path / "gpt2").write_text(template_path("tiny").read_text())
    assert load_config("gpt2") == load_template("tiny")
    assert find_config("qwen3.8-flash-next") == template_path("qwen3.8-flash-next")
    with pytest.raises(MissingFileError, match=r"none\.yaml does not exist"):
        load_config("none.yaml")
    with pytest.raises(MissingFileError, match="does not exist"):
        load_config("folder/gpt2")


@pytest.mark.parametrize(
    ("files", "is_name"),
    [
        ({"tokenizer.json": {}}, True),
        ({"config.json": {"model_type": "gpt2", "_name_or_path": "engram"}}, True),
        ({"config.json": {"model_type": "engram_gpt2", "engram": {"schema": 1}}}, False),
        ({"config.json": {"engram_layer_ids": [1, 2]}}, False),
        ({"config.json": {"text_config": {"ple_layer_ids": [1]}}}, False),
        ({"engram_adapter.json": {"model_config": {"engram": {}}}}, False),
    ],
)
def test_a_folder_of_a_templates_name(files, is_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    for name, values in files.items():
        (tmp_path / "gpt2" / name).write_text(json.dumps(values))
    assert is_template("gpt2") is is_name
    assert not is_template("./gpt2")
    with pytest.raises(InputError, match="gpt2 is a folder; a config must be a file"):
        find_config("./gpt2")
    for words in (["report"], ["config", "show"], ["config", "check"]):
        done = run(*words, "gpt2")
        assert (done.code == 0) is is_name
        assert ("gpt2 means the template" in done.stderr) is is_name
    if not is_name:
        with pytest.raises(InputError, match="gpt2 is a folder; a config must be a file"):
            load_config("gpt2")


def test_a_tokenizer_beside_the_config_comes_before_one_here(tmp_path, monkeypatch):
    config = template_path("tiny").read_text()
    for folder in (tmp_path, tmp_path / "far"):
        (folder / "words").mkdir(parents=True)
    text = re.sub(r"(?m)^tokenizer:.*$", "tokenizer: words", config)
    (tmp_path / "far" / "memory.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert engram.load_config("far/memory.yaml").tokenizer == str(Path("far", "words"))
    (tmp_path / "far" / "words").rmdir()
    assert engram.load_config("far/memory.yaml").tokenizer == "words"


def test_a_wheel_carries_the_templates(tmp_path):
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(REPOSITORY)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    names = {path.name for path in (tmp_path / "site" / "engram" / "_templates").iterdir()}
    assert names == {f"{name}.yaml" for name in template_names()}
    code = (
        "from engram.config.templates import *; print(template_path('gpt2')); load_template('gpt2')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / "site" / "engram" / "_templates" / "gpt2.yaml")
