"""Finds the facts about a base model: in the built-in catalogue, in a folder, or on the hub.

The catalogue, `data/backbones.json`, has the config.json keys that set the sizes of common models.
It is a list of groups: the tokenizer's length, the keys that the models of the group share, and
`models`, the keys of each by hub id. A model with `like` copies the keys of another one and changes
a few.
"""

import functools
import json
from pathlib import Path
from typing import Any

from engram.arguments import checked
from engram.backbone.facts import Backbone
from engram.errors import MissingFileError
from engram.storage.file_names import exists, refuse_empty
from engram.storage.gguf import refuse_gguf, refuse_gguf_folder
from engram.storage.hub import fetch, not_had
from engram.storage.json_files import read_json

CATALOGUE_FILE = Path(__file__).parents[1] / "data" / "backbones.json"


@checked()
def load_backbone(name_or_path: str | Path, revision: str | None = None) -> Backbone:
    """Find the facts about a base model; only its config.json is ever downloaded.

    Search order: a folder given as one (a `Path`, or a string that starts with ``.`` or ``/``, or
    contains ``/`` and exists); the catalogue, by hub id with or without organisation, unless a
    revision is given; a folder of that plain name; the hub, through huggingface_hub with its cache
    and settings (``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_TOKEN``). So ``gpt2`` means the
    catalogue even if a folder of that name exists, and ``./gpt2`` means the folder.

    Args:
        name_or_path: A catalogue name, a folder with a config.json (or that file), or a hub id.
        revision: Branch, tag or commit on the hub; used even for a name in the catalogue.

    Returns:
        Sizes, parameters, layers and token ids.

    Raises:
        MissingFileError: There is no such folder or model, or the hub cannot be reached.
        CorruptFileError: config.json is not a JSON object, or weights are damaged.
        ConfigError: A size in the config is missing or impossible.
        LayoutError: The family is unknown and there are no weights to count.

    Examples:
        >>> import engram
        >>> engram.load_backbone("gpt2").hidden_size
        768
    """
    refuse_empty(name_or_path, "the model")
    name, path = str(name_or_path), Path(name_or_path)
    is_path = isinstance(name_or_path, Path) or name.startswith((".", "/"))
    if is_path or ("/" in name and exists(path)):
        return _from_folder(path)
    known = find_in_catalogue(name) if revision is None else None
    if known is not None:
        return known
    if exists(path):
        return _from_folder(path)
    config = read_hub_config(name, revision)
    return Backbone.from_config(config, name, f"{name}@{revision}" if revision else name)


def given_backbone(model: str | Path | Backbone | None) -> Backbone | None:
    """Return the facts about a model as they are, or find what `load_backbone` takes."""
    return load_backbone(model) if isinstance(model, (str, Path)) else model


def read_hub_config(name: str, revision: str | None = None) -> dict[str, Any]:
    """Read the config.json of a model on the hub, or in the hub's local cache.

    Args:
        name: Its hub id.
        revision: Branch, tag or commit; the newest when None.

    Raises:
        MissingFileError: It does not exist, is private, or cannot be reached.
        CorruptFileError: It is not a JSON object.
    """
    try:
        file = fetch(name, "config.json", revision)[0]
    except Exception as error:  # versions of the client differ in their exceptions
        raise not_had(
            error,
            name,
            "config.json",
            revision,
            folder="the model's folder",
            absent="Give a model in transformers' format; a repository of GGUF files alone has "
            "none.",
            similar=_did_you_mean(name),
            model=name,
        ) from None
    return _read_config(file)


def catalogue_names() -> list[str]:
    """Return the hub ids of the models in the catalogue."""
    return [name for name, _, _ in read_catalogue().values()]


@checked()
def list_backbones() -> tuple[Backbone, ...]:
    """List the base models of the built-in catalogue, by name.

    Returns:
        The facts about each, as `load_backbone` finds them.

    Examples:
        >>> import engram
        >>> [it.name for it in engram.list_backbones() if it.num_layers == 30][0]
        'HuggingFaceTB/SmolLM2-135M'
    """
    found = (find_in_catalogue(name) for name in catalogue_names())
    return tuple(sorted(filter(None, found), key=lambda backbone: backbone.name.lower()))


def find_in_catalogue(name: str) -> Backbone | None:
    """Look up a model by hub id, with or without its organisation, ignoring case.

    Returns:
        Its facts; None if it is not in the catalogue.
    """
    key = name.lower()
    for id_, (hub_id, config, tokenizer_vocab_size) in read_catalogue().items():
        if key in (id_, id_.rpartition("/")[2]):
            return Backbone.from_config(
                config, hub_id, "catalogue", tokenizer_vocab_size=tokenizer_vocab_size
            )
    return None


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


def _from_folder(path: Path) -> Backbone:
    folder = path.parent if path.name == "config.json" else path
    file = folder / "config.json"
    if not exists(file):
        refuse_gguf(path)
        refuse_gguf_folder(folder)
        what = "it has no config.json" if exists(folder) else "it does not exist"
        raise MissingFileError(
            f"{folder} is not a model: {what}.",
            "Give a folder with config.json, a hub id, or a name in the catalogue, such as gpt2.",
            path=str(folder),
        )
    name = folder.resolve().name
    return Backbone.from_config(_read_config(file), name, str(folder), folder=folder)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = read_json(file)
    except OSError as error:
        raise MissingFileError(
            f"{file} cannot be read: {error.strerror}.", "Check its permissions.", path=str(file)
        ) from None
    return config


def _did_you_mean(name: str) -> str:
    import difflib

    names = catalogue_names()
    spellings = {full.rpartition("/")[2].lower(): full for full in names}
    spellings.update({full.lower(): full for full in names})
    close = difflib.get_close_matches(name.lower(), spellings, n=5, cutoff=0.6)
    found = list(dict.fromkeys(spellings[spelling] for spelling in close))[:3]
    if found:
        return f"Did you mean {' or '.join(found)}?"
    return f"The catalogue has {len(names)} models, such as gpt2."
