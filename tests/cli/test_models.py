"""`engram models`: the built-in base models."""

from __future__ import annotations

import engram
from engram.backbone import catalogue_names
from support.cli import imported_by, run


def test_every_model_of_the_catalogue_is_listed():
    listed = run("models", "ls", "--json").json()
    assert listed["schema"] == "engram.models/1"
    assert sorted(it["name"] for it in listed["models"]) == sorted(catalogue_names())
    assert len(run("models", "ls")[1].splitlines()) == 1 + len(catalogue_names())


def test_one_model():
    shown = run("models", "show", "qwen3-0.6b", "--json").json()
    assert (shown["params"], shown["num_layers"], shown["dtype"]) == (596_049_920, 28, "bfloat16")
    assert shown["size_bytes"] == 2 * 596_049_920
    # 28 layers, 8 key-value heads of 128, keys and values of two bytes.
    assert shown["cache_bytes_per_token"] == 28 * 8 * 128 * 2 * 2
    out = run("models", "show", "qwen3-0.6b")[1]
    assert "596,049,920 (exact)" in out
    assert run("models", "show", "./nothing")[0] == 4
    assert engram.load_backbone("qwen3-0.6b").to_dict() == {
        key: value for key, value in shown.items() if key != "schema"
    }


def test_starts_without_heavy_packages():
    done, modules = imported_by("models", "ls", "--json")
    done.ended()
    assert not modules & {"torch", "transformers", "sympy", "numba", "numpy", "tokenizers"}
