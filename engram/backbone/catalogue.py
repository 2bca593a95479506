"""The built-in catalogue of common base models: the config.json keys that set their sizes.

`data/backbones.json` is a list of groups: the tokenizer's length, the keys that the models of the
group share, and `models`, the keys of each by hub id. A model with `like` copies the keys of
another one and changes a few.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from engram.backbone.facts import Backbone

CATALOGUE_FILE = Path(__file__).parents[1] / "data" / "backbones.json"


def catalogue_names() -> list[str]:
    """Return the hub ids of the models in the catalogue."""
    return [name for name, _, _ in read_catalogue().values()]


def find_in_catalogue(name: str) -> Backbone | None:
    """Look up a model by hub id, with or without its organisation, ignoring case.

    Returns:
        Its facts; None if it is not in the catalogue.
    """
    entries = read_catalogue()
    key = name.lower()
    found = [entry for id_, entry in entries.items() if key in (id_, id_.rpartition("/")[2])]
    if not found:
        return None
    hub_id, config, tokenizer_vocab_size = found[0]
    return Backbone.from_config(
        config, hub_id, "catalogue", tokenizer_vocab_size=tokenizer_vocab_size
    )


@functools.cache
def read_catalogue() -> dict[str, tuple[str, dict[str, Any], int | None]]:
    """Hub id, config keys and tokenizer length of every model, by lower-case hub id; read once."""
    entries = {}
    for group in json.loads(CATALOGUE_FILE.read_bytes()):
        for name, own in group["models"].items():
            like = group["models"][own["like"]] if "like" in own else {}
            config = {**group["shared"], **like, **own}
            config.pop("like", None)
            entries[name.lower()] = (name, config, group["tokenizer_vocab_size"])
    return entries
