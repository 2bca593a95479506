"""Names of the files that attaching and converting write, or find beside a base's weights."""

from __future__ import annotations

CONFIG_FILE = "config.json"
ADAPTER_FILE = "engram_adapter.json"
# What a memory under published names is made of, written beside it.
MEMORY_FILE = "engram_memory.json"
CARD_FILE = "README.md"
# The base's own versions of files of which an attached folder has another.
KEPT_FOLDER = "engram_base"
# A lone weight file gets this name: transformers reads model.safetensors in preference to an index,
# and would drop the memory without a word.
RENAMED_SINGLE_FILE = "model-00001-of-00001.safetensors"
