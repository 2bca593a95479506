"""Makes model classes with memories from those of transformers or from code in a base's folder.

For a base of type ``llama`` they are `EngramLlamaConfig` (``model_type: engram_llama``, with the
memory's settings under the key ``engram``) and `EngramLlamaForCausalLM`, both derived from
transformers' own classes.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from engram.backbone.families import ATTACHED_PREFIX, FAMILIES
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError
from engram.hf import compat
from engram.hf.admission import check_model, of_the_base
from engram.hf.classes import made_again_by
from engram.hf.models import EngramForCausalLM
from engram.hf.multimodal import MULTIMODAL, base_class
from engram.hf.wiring import find_place
from engram.seams import tested_range

# Families that `import engram.hf` registers with transformers' Auto classes; others are registered
# when this toolkit attaches to or loads one of their checkpoints.
REGISTERED = (*FAMILIES, "deepseek_v4", *MULTIMODAL)
# Auto classes of a base's tokenizer and processor: the mapping with its own, and the argument that
# registers it.
_READERS = (
    ("AutoTokenizer", "TOKENIZER_MAPPING", "fast_tokenizer_class"),
    ("AutoProcessor", "PROCESSOR_MAPPING", "processor_class"),
)


def model_classes(model_type: str) -> tuple[type[Any], type[Any]]:
    """Make the classes for a base model type, and register them with transformers' Auto classes.

    Args:
        model_type: The base's type, such as ``llama``; or the type with memory, ``engram_llama``.

    Returns:
        The config class and the model class.

    Raises:
        LayoutError: transformers has no causal language model of that type.
    """
    base_type = model_type.removeprefix(ATTACHED_PREFIX)
    return _config_class(base_type), _model_class(base_type)


@cache
def classes_of_code(config_class: Any, model_class: Any) -> tuple[type[Any], type[Any]]:
    """Make the classes for a base whose own classes are code in its folder.

    They are not registered with Auto classes: another folder may have other code of the same name.

    Args:
        config_class: The base's config class.
        model_class: The base's model class.

    Returns:
        The config class and the model class with memories.
    """

    def init(self: Any, *args: Any, engram: Any = None, **kwargs: Any) -> None:
        config_class.__init__(self, *args, **kwargs)
        self.engram = engram

    bases = (config_class, model_class)
    methods = {"__init__": init, "__reduce_ex__": made_again_by(_class_of_code, 0, *bases)}
    made = _make_config(config_class, config_class.model_type, methods)
    base = compat.add_generation_mixin_to_remote_model(model_class)
    return made, _make_model(base, made, made_again_by(_class_of_code, 1, *bases))


def _class_of_code(which: int, config_class: Any, model_class: Any) -> Any:
    return classes_of_code(config_class, model_class)[which]


def wired_classes(
    folder: Path, model_type: str, code: Mapping[str, str] | None, memory: EngramConfig
) -> tuple[str, type[Any], type[Any]]:
    """Make the classes for a base, build it without its weights, and see where the memory goes.

    Args:
        folder: The base.
        model_type: Its type.
        code: Its entries of `auto_map`, if its own classes are code in its folder, which is run.
        memory: The memory.

    Returns:
        Dotted name of its list of layers; the config class and the model class with memories.

    Raises:
        EngramError: It cannot be built, or carries no memory, or not this one.
    """
    if code is None:
        config_class, model_class = model_classes(model_type)
    else:
        with of_the_base(folder):
            own = {
                name: compat.get_class_from_dynamic_module(reference, str(folder))
                for name, reference in code.items()
            }
            theirs = own[compat.TEXT_ALONE]
            config_class, model_class = classes_of_code(
                own.get("AutoConfig", theirs.config_class), theirs
            )
    with of_the_base(folder), torch.device("meta"):
        # Both classes derive from the base's own.
        own_config: Any = config_class.__bases__[0]
        hf_config = own_config.from_json_file(folder / "config.json")
        model = model_class.__bases__[1](hf_config)
    check_model(model)
    _, _, layers_path = find_place(model, memory, memory.layer_ids)
    return layers_path, config_class, model_class


@cache
def _config_class(base_type: str) -> Any:
    from transformers import AutoConfig

    base: Any = compat.config_class(base_type)
    if base is None:
        raise _unknown(base_type)

    def post_init(self: Any, **kwargs: Any) -> None:
        base.__post_init__(self, **kwargs)
        # Model classes are slow to import: one is made when the first config of its type is seen.
        _model_class(base_type)

    reduce = made_again_by(_config_class, base_type)
    made = _make_config(base, base_type, {"__post_init__": post_init, "__reduce_ex__": reduce})
    AutoConfig.register(made.model_type, made, exist_ok=True)
    return made


def _make_config(base: Any, base_type: str, methods: dict[str, Any]) -> Any:
    return type(
        f"Engram{base.__name__}",
        (base,),
        {
            "__module__": __name__,
            "__annotations__": {"engram": dict[str, Any] | None},
            "model_type": ATTACHED_PREFIX + base_type,
            "engram": None,
            **compat.NEVER_COPIED,
            **methods,
        },
    )


@cache
def _model_class(base_type: str) -> Any:
    import transformers

    config_class = _config_class(base_type)
    base_config = config_class.__bases__[0]
    base, auto_classes = base_class(base_type, compat.generating_classes(base_config))
    if base is None:
        raise _unknown(base_type)
    reduce = made_again_by(_model_class, base_type)
    made = _make_model(
        base,
        config_class,
        reduce,
        engram_auto_classes=auto_classes,
        engram_multimodal=base_type in MULTIMODAL,
    )
    # The base's tensors are renamed for our types and classes, too.
    for theirs, ours in ((base_type, config_class.model_type), (base.__name__, made.__name__)):
        mapping = compat.get_checkpoint_conversion_mapping(theirs)
        if mapping is not None:
            compat.register_checkpoint_conversion_mapping(ours, mapping, overwrite=True)
    for name in auto_classes:
        getattr(transformers, name).register(config_class, made, exist_ok=True)
    for name, entries, argument in _READERS:
        reader = compat.mapped(entries, base_config)
        if reader is not None:
            register = getattr(transformers, name).register
            register(config_class, exist_ok=True, **{argument: reader})
    return made


def _make_model(base: Any, config_class: Any, reduce: Any, **members: Any) -> Any:
    own = {"__module__": __name__, "config_class": config_class, "__reduce_ex__": reduce}
    bases = (EngramForCausalLM, base)
    return type(f"Engram{base.__name__}", bases, {**members, **own, **compat.NEVER_COPIED})


def _unknown(base_type: str) -> LayoutError:
    return LayoutError(
        f"The installed transformers has no causal language model of type {base_type!r}.",
        "Another tested release may have it: "
        f"pip install 'transformers{tested_range('transformers')}'",
        model_type=base_type,
    )


def register_families() -> None:
    """Register the known families with transformers' Auto classes and pipelines."""
    for model_type in REGISTERED:
        _config_class(model_type)
