"""Names of the files that attaching writes, and that it finds beside a base's weights."""

from __future__ import annotations

CONFIG_FILE = "config.json"
ADAPTER_FILE = "engram_adapter.json"
CARD_FILE = "README.md"
# The base's own versions of files of which an attached folder has another.
KEPT_FOLDER = "engram_base"
# A lone weight file gets this name: transformers reads model.safetensors in preference to an index,
# and would drop the memory without a word.
RENAMED_SINGLE_FILE = "model-00001-of-00001.safetensors"
