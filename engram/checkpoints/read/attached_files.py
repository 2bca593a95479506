"""The attached format: names of its files, and what a config.json says of a memory."""

from dataclasses import dataclass
from typing import Any

from engram.addressing.stored_form import ADDRESSES_SHAPE
from engram.errors import CorruptFileError
from engram.storage.file_names import is_inside, is_weight_file
from engram.storage.json_files import (
    COPY_AGAIN,
    OBJECT,
    TEXT,
    Each,
    Kind,
    Maybe,
    OrNull,
    check_shape,
    one_of,
)
from engram.storage.safetensors_headers import INDEX_FILE

CONFIG_FILE = "config.json"
ADAPTER_FILE = "engram_adapter.json"
# What a dense control says about itself, in the place of a memory.
CONTROL_FILE = "engram_control.json"
# What a memory under published names is made of, written beside it.
MEMORY_FILE = "engram_memory.json"
CARD_FILE = "README.md"
# Numbers of the run that trained a memory: its settings and results, its steps, and its held-out
# losses by document.
TRAINING_FILE = "engram_training.json"
TRAINING_LOG_FILE = "engram_training_log.jsonl"
HELD_OUT_FILE = "engram_held_out.json"
TRAINING_FILES = (TRAINING_FILE, TRAINING_LOG_FILE, HELD_OUT_FILE)
# The base's own versions of files of which an attached folder has another.
KEPT_FOLDER = "engram_base"
# A lone weight file gets this name: transformers reads model.safetensors in preference to an index,
# and would drop the memory without a word.
RENAMED_SINGLE_FILE = "model-00001-of-00001.safetensors"

_WRITTEN = (CONFIG_FILE, CARD_FILE, INDEX_FILE)
# Files of a base of which an attached folder has, or gets by training, its own version.
REPLACED = (*_WRITTEN, *TRAINING_FILES)
_WEIGHTS = Kind("the name of a safetensors file of its folder", is_weight_file)
_SIDECAR = Kind(
    "the name of another file of the base",
    lambda name: is_inside(name) and not is_weight_file(name) and name not in _WRITTEN,
)
BASE_SHAPE = {
    "files": OrNull(Each(_WEIGHTS, _WEIGHTS)),
    "sidecars": [_SIDECAR],
    "replaced": [one_of(*REPLACED)],
    "auto_map": Maybe({"AutoModelForCausalLM": TEXT}),
}
# What attaching writes beside them.
MEMORY_SHAPE = {"config": OBJECT, "layers_path": TEXT, "addresses": ADDRESSES_SHAPE}


@dataclass(frozen=True, kw_only=True)
class BaseFiles:
    """Places of the base's own files in an attached folder; every name stays inside it.

    Attributes:
        shards: Its weight files: name in the base, and name in an attached folder; none where the
            folder was saved anew since.
        sidecars: Its other files (tokenizer, generation config), by name here and there.
        replaced: Files of which an attached folder has, or may get, its own version.
        code: Its entries of `auto_map`, where it is code beside its weights, and that is trusted.
    """

    shards: dict[str, str]
    sidecars: list[str]
    replaced: list[str]
    code: dict[str, str] | None = None

    @property
    def small_files(self) -> dict[str, str]:
        """Its files beside the weights: name in the base, and name in an attached folder."""
        kept = {name: f"{KEPT_FOLDER}/{name}" for name in self.replaced}
        return {name: name for name in self.sidecars} | kept


def check_settings(settings: Any, shape: Any, where: str) -> None:
    """Check the shape of the key ``engram`` of a model's config, see `json_files.check_shape`."""
    check_shape({"engram": settings}, {"engram": shape}, where, hint=COPY_AGAIN)


def damaged(where: str, what: str) -> CorruptFileError:
    """The error for a file that is not what attaching writes."""
    return CorruptFileError(
        f"{where} is not what attaching writes: {what}.",
        COPY_AGAIN,
        path=where,
    )
