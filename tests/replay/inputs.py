"""The fixed inputs of the replay: the same bytes on every machine and with every dependency."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

from support import sparse_folder
from support.paths import BPE

_VOCAB, _HIDDEN, _INNER = 544, 16, 24
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": _VOCAB,
    "hidden_size": _HIDDEN,
    "intermediate_size": _INNER,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
    "dtype": "float32",
}
_MEMORY = {
    "tokenizer": "tok",
    "hidden_size": _HIDDEN,
    "engram_vocab_size": _VOCAB,
    "max_ngram_size": 3,
    "n_embed_per_ngram": 8,
    "n_head_per_ngram": 2,
    "layer_ids": [1, 2],
    "kernel_size": 3,
    "pad_id": 2,
}
# A small memory of each layout, and some that are wrong.
_CONFIGS = {
    "demo": {**_MEMORY, "engram_table_size": [302, 406]},
    "v41": {
        **{key: value for key, value in _MEMORY.items() if key != "kernel_size"},
        **{"layout": "deepseek_v41", "engram_table_size": [302, 302], "table_dtype": "bfloat16"},
    },
    "qwen": {
        **{key: value for key, value in _MEMORY.items() if key != "pad_id"},
        **{"layout": "qwen_ple", "engram_table_size": [302, 302], "eos_id": 1, "layer_ids": [1]},
    },
    "typo": {**_MEMORY, "engram_table_size": [302, 406], "layer_idz": [1], "seed": "x"},
    "narrow": {**_MEMORY, "engram_table_size": [302, 406], "hidden_size": 12},
}
_PARTS = ["The river ran past", "an old mill,", "over stones", "and on to the sea", "again."]


def write_inputs(folder: Path) -> None:
    """Write a tokenizer, a base, configs, texts and released checkpoints."""
    shutil.copytree(BPE, folder / "tok")
    _write_base(folder / "base")
    for name, values in _CONFIGS.items():
        (folder / f"{name}.yaml").write_text(json.dumps(values, indent=1))
    _write_texts(folder)
    v41 = {"model-00001-of-00001.safetensors": sparse_folder.v41_layer(1, 384006168)}
    v41["model-00002-of-00002.safetensors"] = sparse_folder.v41_layer(14, 384016682)
    sparse_folder.write(folder / "released", sparse_folder.V41_CONFIG, v41)
    v41.popitem()
    sparse_folder.write(folder / "half", sparse_folder.V41_CONFIG, v41)


def _write_base(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    shutil.copytree(BPE, folder)
    (folder / "config.json").write_text(json.dumps(_LLAMA, indent=2))
    shapes = {"model.embed_tokens": (_VOCAB, _HIDDEN), "lm_head": (_VOCAB, _HIDDEN)}
    shapes["model.norm"] = (_HIDDEN,)
    for i in range(3):
        layer = f"model.layers.{i}."
        shapes |= {f"{layer}self_attn.{x}_proj": (_HIDDEN, _HIDDEN) for x in "qkvo"}
        shapes |= {f"{layer}mlp.{x}_proj": (_INNER, _HIDDEN) for x in ("gate", "up")}
        shapes[f"{layer}mlp.down_proj"] = (_HIDDEN, _INNER)
        shapes |= {f"{layer}{x}_layernorm": (_HIDDEN,) for x in ("input", "post_attention")}
    tensors = {}
    for number, (name, shape) in enumerate(shapes.items(), 1):
        count = int(np.prod(shape))
        values = (np.arange(count, dtype=np.uint64) * 7919 * number + 104729) % 2001
        floats = (values.astype(np.float32) - 1000) / 5000
        tensors[f"{name}.weight"] = (floats + ("norm" in name)).reshape(shape)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _write_texts(folder: Path) -> None:
    texts = [
        " ".join(_PARTS[i * k % len(_PARTS)] for k in range(1, 4 + i % 9)) + f" {i}\n"
        for i in range(200)
    ]
    (folder / "text.txt").write_text("\n".join(texts))
    records = "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts))
    (folder / "text.jsonl").write_text(records)
    (folder / "text.jsonl.gz").write_bytes(gzip.compress(records.encode(), mtime=0))
    rows = "".join(f'{i},"{text}"\n' for i, text in enumerate(texts))
    (folder / "text.csv").write_text(f"n,body\n{rows}")
    (folder / "broken.jsonl").write_text(records + '{"text": \n' + records)
    (folder / "empty.txt").write_text("")
    (folder / "invalid.txt").write_bytes(b"one\n\ntwo \xff\xfe\n\nthree\n")
