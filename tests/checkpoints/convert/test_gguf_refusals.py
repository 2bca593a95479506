"""Conversions to GGUF that are refused, with the reason."""

from __future__ import annotations

import pytest

from engram.checkpoints.convert.convert import convert
from engram.errors import (
    LayoutError,
    MismatchError,
    UsageError,
)
from support.gguf_files import Array
from support.gguf_memories import write_memory
from support.layouts import random_memory
from support.paths import BPE


def test_what_a_dialect_does_not_hold_is_refused(folders, attached, base, tmp_path):
    for source, to, options, error, match in (
        (folders["qwen_ple"], "gguf_llama", {}, LayoutError, "for deepseek_v41"),
        (attached, "gguf_ds4", {"dtype": "bfloat16"}, LayoutError, "It takes fp8|not converted"),
        (attached, "gguf_llama", {"dtype": "int8"}, LayoutError, "not converted to int8"),
        (attached, "gguf_llama", {"base": base}, UsageError, "not in GGUF"),
        (folders["deepseek_v41"], "gguf_ds4", {}, LayoutError, "256|fp8"),
    ):
        with pytest.raises(error, match=match):
            convert(source, tmp_path / "x.gguf", to, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_architecture_is_refused(attached, tmp_path):
    write_memory(tmp_path / "qwen.gguf", "gguf_qwen4exp", small=True, changed={"rows": [128]})
    with pytest.raises(MismatchError, match="architecture qwen4exp"):
        convert(attached, tmp_path / "x.gguf", "gguf_llama", base=tmp_path / "qwen.gguf")


def test_a_memory_that_ends_documents_is_refused(base, tmp_path):
    options = {"n_embed_per_ngram": 512, "n_head_per_ngram": 2, "eos_id": 1}
    folder = random_memory(
        base, tmp_path / "a", "deepseek_v41", ends_after_eos=True, table_dtype=None, **options
    )
    with pytest.raises(LayoutError, match="ends documents"):
        convert(folder, tmp_path / "x.gguf", "gguf_llama")


def test_a_model_of_another_vocabulary_or_width_is_refused(released, tmp_path):
    for values, match in (
        ({"tokenizer.ggml.tokens": Array("string", ["a", "b"])}, "2 tokens"),
        ({"deepseek41.embedding_length": ("uint32", 5120)}, "hidden states of 5120"),
    ):
        path = tmp_path / "base.gguf"
        write_memory(path, "gguf_tarruda", values=values, small=True, changed={"rows": [302] * 2})
        with pytest.raises(MismatchError, match=match):
            convert(released, tmp_path / "x.gguf", "gguf_ds4", base=path, tokenizer=BPE)


@pytest.mark.parametrize("option", ["link", "trust_remote_code"])
def test_options_without_a_meaning_are_refused(attached, option, tmp_path):
    with pytest.raises(UsageError, match="no meaning"):
        convert(attached, tmp_path / "x.gguf", "gguf_llama", **{option: True})


def test_rows_of_another_width_than_an_encoding_has_are_refused(folders, tmp_path):
    convert(folders["deepseek_v41"], tmp_path / "fp8", dtype="fp8")
    with pytest.raises(LayoutError, match="cannot be stored as e4m3_e8m0_32_row264"):
        convert(tmp_path / "fp8", tmp_path / "x.gguf", "gguf_ds4", tokenizer=BPE)
