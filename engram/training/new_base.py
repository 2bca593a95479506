"""`NewBase`: a base with random weights, described by a YAML file, for training from scratch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from engram.addressing.tokenizer_extras import EXTRAS, SETTINGS
from engram.addressing.tokenizer_files import TOKENIZER, TokenizerFile, load_tokenizer
from engram.arguments import checked
from engram.backbone import Backbone
from engram.backbone.families import FAMILIES
from engram.checkpoints.read.attached_files import CONFIG_FILE
from engram.config.config_file import config_error, read_mapping
from engram.config.tokenizer_path import read_from
from engram.errors import ConfigError, LayoutError, Problem
from engram.hf import admission, compat
from engram.hf.families import REGISTERED
from engram.hf.header_loading import without_bars
from engram.storage.files import write_json
from engram.storage.folders import new_folder
from engram.storage.json_files import read_json
from engram.units import format_count

_OWN = ("model_type", "tokenizer", "seed", "dtype")
_DTYPES = ("float32", "bfloat16", "float16", "float64")
_HINT = (
    "The keys are model_type, tokenizer, seed, dtype, and those of the model's own config.json; "
    "examples/tiny-llama.yaml is a valid file."
)
_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_MAX_SEED = 2**62


@dataclass(frozen=True, kw_only=True)
class NewBase:
    """A base that is to be made, see `read_new_base`.

    Attributes:
        name: Its name in messages: its file's.
        model_type: Its family in transformers, such as ``llama``.
        settings: Keys of its config.json: those of the file, and the tokenizer's.
        tokenizer: Its tokenizer.
        seed: Seed of its weights.
        dtype: dtype of its weights, as torch names it.
        note: How it was made smaller to pay for a memory, as a sentence; empty where it was not.
    """

    name: str
    model_type: str
    settings: dict[str, Any]
    tokenizer: TokenizerFile
    seed: int = 0
    dtype: str = "float32"
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what its weights depend on, for JSON."""
        own = {"seed": self.seed, "dtype": self.dtype, "tokenizer": self.tokenizer.digest}
        return {**self.config, **own}

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json, before transformers adds its own defaults."""
        return {"model_type": self.model_type, **self.settings}

    @cached_property
    def backbone(self) -> Backbone:
        """The facts about it, counted in closed form.

        Raises:
            LayoutError: Its family has no closed form.
        """
        return Backbone.from_config(self.config, self.name, self.name)

    def with_settings(self, settings: dict[str, Any]) -> NewBase:
        """Return another one, with some keys of its config changed."""
        return replace(self, settings={**self.settings, **settings})


@checked()
def read_new_base(path: str | Path) -> NewBase:
    """Read the description of a base from a YAML file.

    Its keys are ``model_type``, a causal language model of transformers; ``tokenizer``: a folder or
    a tokenizer.json (from the file's folder, if it is relative), ``package:NAME`` or a hub id;
    ``seed`` and ``dtype`` of the weights, which may be left out; and the keys of the model's own
    config.json. The vocabulary and the ids of special tokens are the tokenizer's unless stated.

    Args:
        path: The file.

    Raises:
        ConfigError: All problems of the file, each with its line and key.
        LayoutError: A memory cannot be attached to models of this type.
        MissingFileError: There is no such file, or no such tokenizer.
    """
    found = read_mapping(path, "examples/tiny-llama.yaml is an example.")
    problems = [*found.problems, *_own_problems(found.values)]
    settings = {key: value for key, value in found.values.items() if key not in _OWN}
    model_type = found.values.get("model_type")
    kind = compat.config_class(model_type) if isinstance(model_type, str) else None
    if kind is not None:
        problems += _unknown_keys(settings, kind)
    elif isinstance(model_type, str):
        near = get_close_matches(model_type, REGISTERED, n=1)
        hint = f"did you mean {near[0]}?" if near else f"types are {', '.join(REGISTERED[:6])}, ..."
        problems.append(Problem("model_type", f"unknown type {model_type!r}; {hint}"))
    if problems:
        raise _with_lines(problems, path, found.lines)
    admission.admit(Path(path), {"model_type": model_type, **settings}, False)
    name = read_from(found.values["tokenizer"], Path(path).parent)
    spec = NewBase(
        name=Path(path).name,
        model_type=str(model_type),
        settings=settings,
        tokenizer=load_tokenizer(name),
        **{key: found.values[key] for key in ("seed", "dtype") if key in found.values},
    )
    spec = spec.with_settings(_from_tokenizer(spec.tokenizer, kind) | settings)
    problems = _value_problems(spec, kind)
    if problems:
        raise _with_lines(problems, path, found.lines)
    return spec


@checked()
def write_new_base(spec: NewBase, folder: str | Path) -> Path:
    """Write a base with random weights and its tokenizer, as `engram.attach` takes it.

    The weights are those that transformers gives a new model, by the seed alone.

    Args:
        spec: The base.
        folder: The folder to appear, whole or not at all.

    Returns:
        The folder.

    Raises:
        InputError: Something is there already.
        LayoutError: transformers cannot build the model.
    """
    from transformers import AutoModelForCausalLM

    config = compat.config_class(spec.model_type)(**spec.settings)
    with admission.of_the_base(Path(spec.name)), torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.to(getattr(torch, spec.dtype))
    with new_folder(Path(folder), lambda _: None, False) as new, without_bars():
        model.save_pretrained(new)
        _write_tokenizer(spec.tokenizer, new)
    return Path(folder)


def scale_note(params: int, tokens: int) -> str:
    """Return the sentence that belongs to every result of a model trained from scratch.

    Args:
        params: Parameters of the model, its memory included.
        tokens: Tokens that it was trained on.
    """
    return (
        f"A model of {format_count(params)} parameters trained on {format_count(tokens)} tokens "
        f"({tokens / params:.2g} for each parameter) compares allocations at this scale; it says "
        "nothing about large models, or about longer training."
    )


def known_keys(kind: Any) -> set[str]:
    """Return the keys of a family's config.json that a new base may state.

    Args:
        kind: transformers' config class.
    """
    names = {*kind().to_dict(), *kind.attribute_map}
    family = FAMILIES.get(kind.model_type)
    if family is not None and family.grouped_heads:
        names.add("head_dim")  # models read it, and not every config class declares it
    return {name for name in names if not name.startswith("_")} - set(_OWN)


def _own_problems(values: dict[str, Any]) -> Iterable[Problem]:
    for key, what in (
        ("model_type", "a type of transformers, such as llama"),
        ("tokenizer", "a folder, a tokenizer.json, package:NAME or a hub id"),
    ):
        value = values.get(key)
        if not isinstance(value, str) or not value:
            stated = f"must be {what}, got {value!r}" if key in values else f"missing; it is {what}"
            yield Problem(key, stated)
    seed, dtype = values.get("seed", 0), values.get("dtype", "float32")
    if type(seed) is not int or not 0 <= seed <= _MAX_SEED:
        yield Problem("seed", f"must be a whole number in 0..{_MAX_SEED}, got {seed!r}")
    if dtype not in _DTYPES:
        yield Problem("dtype", f"must be one of {', '.join(_DTYPES)}, got {dtype!r}")


def _unknown_keys(settings: dict[str, Any], kind: Any) -> Iterable[Problem]:
    known = known_keys(kind)
    for key in settings:
        if key not in known:
            near = get_close_matches(key, [*known, *_OWN], n=1)
            hint = f"did you mean {near[0]}?" if near else f"a {kind.model_type} config has no such"
            yield Problem(key, f"unknown key; {hint}")
        other = kind.attribute_map.get(key)
        if other is not None and other in settings:
            yield Problem(key, f"is another name of {other}, which is stated, too")


def _from_tokenizer(tokenizer: TokenizerFile, kind: Any) -> dict[str, Any]:
    """Return the keys that follow from the tokenizer, those of the config class alone."""
    ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    own = {"vocab_size": tokenizer.vocab_size, **dict(zip(_SPECIAL_IDS, ids, strict=True))}
    return {key: value for key, value in own.items() if key in known_keys(kind)}


def _value_problems(spec: NewBase, kind: Any) -> list[Problem]:
    """Find values that the family, transformers or the tokenizer contradict."""
    rows, length = spec.settings.get("vocab_size"), spec.tokenizer.vocab_size
    if type(rows) is int and rows < length:
        return [Problem("vocab_size", f"is {rows}; the tokenizer has {length} tokens")]
    try:
        _ = spec.backbone
    except ConfigError as error:
        return error.problems
    except LayoutError:  # counted in no closed form, which only equal parameters need
        pass
    try:
        kind(**spec.settings)
    except Exception as error:  # each release checks in its own way
        said = " ".join(str(error).split())
        key = next((key for key in spec.settings if f"'{key}'" in said), "")
        return [Problem(key, f"transformers refuses it: {said}")]
    return []


def _with_lines(problems: list[Problem], path: str | Path, lines: dict[str, int]) -> ConfigError:
    numbered = [replace(it, line=it.line or lines.get(it.key)) for it in problems]
    return config_error(numbered, path, _HINT)


def _write_tokenizer(tokenizer: TokenizerFile, folder: Path) -> None:
    """Copy a tokenizer's files, and name a class that reads them where they name none."""
    source = Path(str(tokenizer.path))
    shutil.copyfile(source, folder / TOKENIZER)
    for name in EXTRAS.keys() - {CONFIG_FILE}:
        if (source.parent / name).is_file():
            shutil.copyfile(source.parent / name, folder / name)
    file = folder / SETTINGS
    stated = read_json(file) if file.is_file() else {}
    if "tokenizer_class" not in stated:
        # Else transformers would read the file as the model family's own tokenizer.
        ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
        special = {
            f"{role}_token": tokenizer.tokenizer.id_to_token(number)
            for role, number in ids.items()
            if number is not None
        }
        write_json(file, {**special, **stated, "tokenizer_class": "PreTrainedTokenizerFast"})
