"""The module beside the weights with which `trust_remote_code` loads an attached checkpoint.

It imports the installed toolkit instead of containing a copy. If the base itself is code in its
folder, that code is saved beside the module, which builds on it.
"""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.errors import InputError
from engram.hf.compat import get_relative_import_files

REMOTE_MODULE = "modeling_engram"
CODE_KEYS = ("AutoConfig", "AutoModelForCausalLM")


def auto_map(config_class: Any, model_class: Any) -> dict[str, str]:
    """Return the ``auto_map`` of the checkpoint's classes, for config.json."""
    model = f"{REMOTE_MODULE}.{model_class.__name__}"
    found = {"AutoConfig": f"{REMOTE_MODULE}.{config_class.__name__}"}
    return found | dict.fromkeys(model_class.engram_auto_classes, model)


def module_and_class(reference: str) -> tuple[str, str]:
    """Split an entry of `auto_map` that names code beside the weights.

    Raises:
        InputError: It names something else. Text from a config must not become code unchecked.
    """
    module, _, name = reference.partition(".")
    if not (module.isidentifier() and name.isidentifier()):
        raise InputError(
            f"{reference!r} in auto_map is not a class of a module beside the weights: the code is "
            "in another repository, or missing.",
            "Copy its .py files beside the weights, and name them in auto_map of config.json.",
            reference=reference,
        )
    return module, name


def remote_module(
    config_class: type[Any], model_class: type[Any], code: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Return the name and text of the module that `trust_remote_code` runs.

    Args:
        config_class: The checkpoint's config class.
        model_class: The checkpoint's model class.
        code: Entries of ``auto_map`` for the base's own classes; None if they are those of
            transformers.

    Raises:
        InputError: The base's own classes are not beside the weights.
    """
    if code is None:
        imports, made = [], f'model_classes("{config_class.model_type}")'
    else:
        bases = {key: module_and_class(code[key]) for key in CODE_KEYS if key in code}
        imports = [f"from .{module} import {name}" for module, name in bases.values()]
        model = bases["AutoModelForCausalLM"][1]
        config = bases["AutoConfig"][1] if "AutoConfig" in bases else f"{model}.config_class"
        made = f"classes_of_code({config}, {model})"
    lines = [
        '"""Loads this checkpoint through the installed toolkit: pip install engram-toolkit."""',
        "",
        f"from engram.hf import {made.partition('(')[0]}",
        "",
        *imports,
        *([""] if imports else []),
        f"{config_class.__name__}, {model_class.__name__} = {made}",
    ]
    return f"{REMOTE_MODULE}.py", "\n".join(lines) + "\n"


def write_code(model: Any, folder: Path) -> None:
    """Write the module that `trust_remote_code` runs, and the code of the base that it builds on.

    Args:
        model: A model with memories, of which the base may be code in its folder.
        folder: The target folder.
    """
    code = model.config.engram["base"].get("auto_map")
    name, text = remote_module(type(model.config), type(model), code)
    (folder / name).write_text(text, encoding="utf-8")
    bases = () if code is None else (*type(model).__mro__, *type(model.config).__mro__)
    for base in bases:
        if base.__module__.startswith("transformers_modules."):
            file = str(sys.modules[base.__module__].__file__)
            for needed in (file, *get_relative_import_files(file)):
                shutil.copyfile(needed, folder / Path(needed).name)
