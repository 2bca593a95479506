"""Folders that conversions start from."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

from engram.nn.quantised import quantise_fp8_blocks
from support import tiny
from support.converted import run
from support.layouts import LAYOUTS, random_memory


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[0]


@pytest.fixture(scope="session")
def folders(base, tmp_path_factory):
    """Attached folders with random weights, by layout: as attached, their memory overwritten."""
    return {
        layout: random_memory(base, tmp_path_factory.mktemp(layout) / "attached", layout)
        for layout in LAYOUTS
    }


@pytest.fixture(scope="session")
def attached(base, tmp_path_factory):
    """A memory of V4.1's layout with rows of its width, random throughout."""
    folder = tmp_path_factory.mktemp("v41") / "attached"
    return random_memory(
        base, folder, "deepseek_v41", n_embed_per_ngram=512, n_head_per_ngram=2, table_dtype=None
    )


@pytest.fixture(scope="session")
def released(attached, tmp_path_factory):
    """The same as it would be released: fp8 tables, and fp8 projections with 32 x 32 scales."""
    folder = tmp_path_factory.mktemp("v41") / "released"
    run(attached, folder, "deepseek_v41", dtype="fp8")
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    for file in folder.glob("*.safetensors"):
        found = load_file(file)
        for name in [name for name in found if name.endswith("wkv.weight")]:
            scale = name.replace("weight", "scale")
            found[name], found[scale] = quantise_fp8_blocks(found[name])
            values["weight_map"][scale] = file.name
        for name in [name for name in found if name.endswith(("q_weight", "k_weight"))]:
            found[name] = found[name].bfloat16()
        save_file(found, file, {"format": "pt"})
    index.write_text(json.dumps(values))
    return folder
