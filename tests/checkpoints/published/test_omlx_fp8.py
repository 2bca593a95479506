"""Tables that MLX packs as mxfp8 are this toolkit's own fp8: copied, and never rounded again."""

from __future__ import annotations

import json

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import engram
from engram.checkpoints.attach import attach
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.nn.quantised import quantise_fp8
from engram.storage.gguf_headers import read_gguf
from support import tiny

WIDTH = 64
# A file of its own, named by the config alone.
FILE = "engram/tables.safetensors"


def test_rows_are_copied_bit_for_bit(tmp_path):
    base = tiny.base_model("llama", tmp_path / "base")
    config = tiny.memory_config(
        layout="deepseek_v41", layer_ids=[1], n_head_per_ngram=1, engram_table_size=[302] * 3,
        n_embed_per_ngram=WIDTH, seed=0, kernel_size=0,
    )  # fmt: skip
    attach.attach(base, config, tmp_path / "attached")
    convert(tmp_path / "attached", tmp_path / "published", "deepseek_v41")
    (file,) = (tmp_path / "published").glob("*.safetensors")
    tensors = load_file(file)
    name = next(it for it in tensors if it.endswith("embed.weight"))
    place, rows = name.removesuffix(".weight"), len(tensors[name])
    values = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(0))
    codes, scales = (it.view(torch.uint8).clone() for it in quantise_fp8(values))
    codes[1], scales[1] = 0, 0  # zeros with a scale that rounding would not choose
    made = tmp_path / "made"
    (made / "engram").mkdir(parents=True)
    stated = {
        f"{part}_{what}": value
        for part, end in (("weight", "weight"), ("scale", "scales"))
        for what, value in (("key", f"{place}.{end}"), ("file", FILE))
    }
    tables = {f"language_model.{place}": {**stated, "bits": 8, "group_size": 32}}
    block = {"version": 1, "quantized_modules": {}, "engram_tables": tables}
    settings = json.loads((tmp_path / "published" / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**settings, "omlx_deepseek_v41": block}))
    for side in ("tokenizer.json", "tokenizer_config.json"):
        (made / side).write_bytes((base / side).read_bytes())
    others = {f"language_model.{it}": value for it, value in tensors.items() if it != name}
    save_file(others, made / "model.safetensors", {"format": "pt"})
    packed = {f"{place}.weight": codes.view(torch.uint32), f"{place}.scales": scales}
    save_file(packed, made / FILE, {"format": "pt"})
    assert open_checkpoint(made).stored_config.table_dtype == "fp8"
    plan = convert(made, tmp_path / "two.gguf", "gguf_tarruda").plan
    assert plan.losses()[1]["table"].max_error == 0
    found = read_gguf(tmp_path / "two.gguf").tensors
    for tensor, expected in (("engram_embd", codes), ("engram_embd_scale", scales)):
        stored = found[f"blk.1.{tensor}.weight"]
        content = np.frombuffer(stored.read(0, stored.data_bytes), np.uint8)
        np.testing.assert_array_equal(content.reshape(rows, -1), expected.numpy())
    checks = engram.verify(tmp_path / "two.gguf", source=made)
    assert [it.ok for it in checks if it.name.startswith("source")] == [True]
