"""Tiny memories of every layout that can be attached, and folders that hold them at random."""

from __future__ import annotations

from safetensors.torch import load_file, save_file

import engram
from support import tiny

LAYOUTS = {
    "demo": {},
    "deepseek_v41": {"seed": 0, "kernel_size": 0, "engram_table_size": [302, 302, 302]},
    "qwen_ple": {"seed": 1234, "eos_id": 1, "engram_table_size": [302, 302, 302]},
}


def layout_config(layout, **changes):
    return tiny.memory_config(layout=layout, **{**LAYOUTS[layout], **changes})


def random_memory(base, folder, layout, **changes):
    return save_random_memory(tiny.attached_model(base, folder, layout_config(layout, **changes)))


def save_random_memory(folder):
    """Overwrite the memory of an attached folder with random values."""
    values = tiny.randomise(engram.load(folder)).state_dict()
    for file in folder.glob("engram-*.safetensors"):
        names = load_file(file)
        save_file({name: values[name].contiguous() for name in names}, file, {"format": "pt"})
    return folder
