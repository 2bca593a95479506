"""Seams to transformers: the undocumented names that the toolkit uses, in one place each.

They cover two kinds of change: names that differ between the tested releases, which are found by
signature, and names that a future release may drop, which have a probe in `SEAMS`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from engram.hf.header_loading import loads_from_headers
from engram.nn import compat as torch_seams
from engram.seams import Probed, Seam, callable_seam, probe, require

PACKAGE = "transformers"
# transformers 5.24 renamed the argument; the old name is an alias until 5.40, and remains the only
# one in code beside the weights of a base.
CACHE_NAMES = ("cache", "past_key_values")
# Class members that stop transformers from copying the file of a class on saving.
NEVER_COPIED = {
    "_auto_class": None,
    "register_for_auto_class": classmethod(lambda cls, auto_class=None: None),
}
# Auto classes of models that generate text, with the mapping of each.
TEXT_ALONE, WITH_IMAGES = "AutoModelForCausalLM", "AutoModelForImageTextToText"
_GENERATING = {
    TEXT_ALONE: "MODEL_FOR_CAUSAL_LM_MAPPING",
    WITH_IMAGES: "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "AutoModelForMultimodalLM": "MODEL_FOR_MULTIMODAL_LM_MAPPING",
}

_RENAMES = "loading bases whose tensors are renamed"
_CODE = "bases that are code in their own folder"
_QUANTISED = "memories beside quantised weights"
_LOGGERS = "refusing a logger that is unknown or not installed before a run"
_CONTINUOUS = "refusing continuous batching before it starts"

# Seams that are called under the names of transformers. First the renaming of tensors on loading.
get_checkpoint_conversion_mapping = callable_seam(
    f"{PACKAGE}.conversion_mapping", "get_checkpoint_conversion_mapping", _RENAMES
)
register_checkpoint_conversion_mapping = callable_seam(
    f"{PACKAGE}.conversion_mapping",
    "register_checkpoint_conversion_mapping",
    _RENAMES,
    *("model_type_or_class_name", "mapping", "overwrite"),
)
# Gives tensors of a model the names that `save_pretrained` gives them: those of the files from
# which it was loaded.
revert_weight_conversion = callable_seam(
    f"{PACKAGE}.core_model_loading",
    "revert_weight_conversion",
    "the names of the memory's tensors in a saved folder",
    *("model", "state_dict"),
)
# Adds `generate` to a class of remote code that lacks it.
add_generation_mixin_to_remote_model = callable_seam(
    f"{PACKAGE}.models.auto.auto_factory", "add_generation_mixin_to_remote_model", _CODE
)
# Runs the code beside a checkpoint, which must be trusted, and returns a class that it defines.
get_class_from_dynamic_module = callable_seam(
    f"{PACKAGE}.dynamic_module_utils", "get_class_from_dynamic_module", _CODE
)
# Lists the files beside a module that it imports, directly or indirectly.
get_relative_import_files = callable_seam(
    f"{PACKAGE}.dynamic_module_utils", "get_relative_import_files", _CODE
)
# Lists modules of a model, on any device, that are never quantised, such as the head.
get_modules_to_not_convert = callable_seam(
    f"{PACKAGE}.quantizers",
    "HfQuantizer.get_modules_to_not_convert",
    _QUANTISED,
    *("model", "skip_modules"),
)
quantiser_from_config = callable_seam(
    f"{PACKAGE}.quantizers", "AutoHfQuantizer.from_config", _QUANTISED
)
# Finds loggers of training by their names, and those whose packages are installed.
find_loggers = callable_seam(
    f"{PACKAGE}.integrations", "get_reporting_integration_callbacks", _LOGGERS, "report_to"
)
installed_loggers = callable_seam(
    f"{PACKAGE}.integrations", "get_available_reporting_integrations", _LOGGERS
)
# GPT-2's projections: linear, their weights of shape (inputs, outputs).
Conv1D = callable_seam(f"{PACKAGE}.pytorch_utils", "Conv1D", _QUANTISED)


def is_quantised(model: Any) -> bool:
    """Whether transformers has quantised a model's base."""
    return bool(getattr(model, "is_quantized", False))


def let_gradients_pass(model: Any) -> None:
    """Have transformers' Trainer, and bitsandbytes, let a memory be trained in a quantised model.

    Trainer asks for adapters of PEFT, but the memory is what learns. On a CPU bitsandbytes repacks
    weights for a kernel without gradients.
    """
    model.is_quantized = False
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def cache_name(forward: Callable[..., Any]) -> str | None:
    """Return the name of a function's argument for a cache of keys and values.

    Args:
        forward: The `forward` of a model, a decoder or a layer.

    Returns:
        ``cache`` or ``past_key_values``; None when it takes neither.
    """
    parameters = inspect.signature(forward).parameters
    return next((name for name in CACHE_NAMES if name in parameters), None)


def rename_cache(arguments: dict[str, Any], name: str | None) -> dict[str, Any]:
    """Rename the cache in keyword arguments to the name that a function expects, in place.

    Args:
        arguments: Keyword arguments with a cache under either name, or without one.
        name: The expected name; None to leave the arguments unchanged.

    Returns:
        The same arguments.
    """
    if name is not None:
        for other in CACHE_NAMES:
            if other != name and other in arguments:
                given = arguments.pop(other)
                if arguments.get(name) is None:
                    arguments[name] = given
    return arguments


def cache_of(outputs: Any) -> Any:
    """Return the cache in the result of a model or of its `prepare_inputs_for_generation`.

    Args:
        outputs: A mapping, or a model's tuple.

    Returns:
        The cache; None where there is none.
    """
    if isinstance(outputs, tuple):
        from transformers import Cache

        return next((it for it in outputs if isinstance(it, Cache)), None)
    return next((outputs[name] for name in CACHE_NAMES if name in outputs), None)


def remember_past(cache: Any) -> None:
    """Have a cache keep states that cropping restores, such as the start of a sliding window."""
    activate = getattr(cache, "activate_past_recording", None)
    if activate is not None:
        activate()


def self_attention_cache(cache: Any) -> Any:
    """Return the part of a cache that holds the decoder's own past; usually the cache itself."""
    return getattr(cache, "self_attention_cache", cache)


def is_paged(cache: Any) -> bool:
    """Whether a cache is for continuous batching, whose rows hold several requests."""
    return any(base.__name__ == "PagedAttentionCache" for base in type(cache).__mro__)


def has_peft_adapter(model: Any) -> bool:
    """Whether a PEFT adapter was loaded into a model by methods of transformers."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def config_class(model_type: str) -> Any:
    """Return transformers' config class of a model type; None if the type is unknown."""
    return mapped("CONFIG_MAPPING", model_type)


def mapped(mapping: str, key: Any) -> Any:
    """Return an entry of one of transformers' mappings; None when there is none.

    Args:
        mapping: Name of the mapping.
        key: A model type in CONFIG_MAPPING, else a config class.
    """
    import transformers

    entries = getattr(transformers, mapping)
    # Lazy mappings fill themselves when they are indexed, not in `get`.
    return entries[key] if key in entries else None  # noqa: SIM401


def generating_classes(config: Any) -> dict[str, Any]:
    """Return transformers' models of a config class that generate text, by Auto class."""
    found = {name: mapped(mapping, config) for name, mapping in _GENERATING.items()}
    return {name: model for name, model in found.items() if model is not None}


_load_pretrained_model = callable_seam(
    PACKAGE,
    "PreTrainedModel._load_pretrained_model",
    "tables that stay on disk",
    *("model", "state_dict", "checkpoint_files"),
)


def weight_loader(model_class: Any) -> Any:
    """Return the method through which `from_pretrained` loads weights.

    There is no public way to exclude a part of a checkpoint from being loaded into memory.

    Raises:
        DependencyError: The installed transformers loads weights in another way.
    """
    require(probe(PACKAGE, [_load_pretrained_model]))
    return model_class._load_pretrained_model


def probed() -> list[Probed]:
    """Probe every seam to torch and to transformers.

    Raises:
        ModuleNotFoundError: transformers is not installed.
    """
    return [*_probed_at_once(), *probe(PACKAGE, SEAMS_OF_LOGGERS)]


def check() -> None:
    """Raise an error if the installed transformers or torch breaks a seam that is always used.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        DependencyError: One of the two is outside the supported range.
    """
    require(_probed_at_once())


def check_loggers() -> None:
    """Raise an error if the installed transformers breaks a seam of loggers.

    Raises:
        DependencyError: It is outside the supported range.
    """
    require(probe(PACKAGE, SEAMS_OF_LOGGERS))


def _probed_at_once() -> list[Probed]:
    return [*probe(torch_seams.PACKAGE, torch_seams.SEAMS), *probe(PACKAGE, SEAMS)]


def _generation_takes_a_cache() -> bool:
    from transformers import GenerationMixin

    return cache_name(GenerationMixin.prepare_inputs_for_generation) is not None


def _past_is_recorded() -> bool:
    from transformers import Cache

    return callable(getattr(Cache, "activate_past_recording", remember_past))


def _decoders_have_their_own_cache() -> bool:
    from transformers import DynamicCache, EncoderDecoderCache

    own = DynamicCache()
    return self_attention_cache(EncoderDecoderCache(own, DynamicCache())) is own


def _copies_file(name: str) -> bool:
    import transformers

    found = getattr(transformers, name)
    return hasattr(found, "_auto_class") and callable(found.register_for_auto_class)


def _is_mapped(mapping: str, model_type: str) -> bool:
    key = model_type if mapping == "CONFIG_MAPPING" else config_class(model_type)
    return isinstance(mapped(mapping, key), type) and mapped(mapping, None) is None


def _adapters_are_flagged() -> bool:
    from transformers.integrations.peft import PeftAdapterMixin

    return hasattr(PeftAdapterMixin, "_hf_peft_config_loaded")


_COPIES = "saving folders that import the installed toolkit instead of a copy of its files"
_PAST = "applying changes of a cache to the memory's past"
_CONSTANTS = "rebuilding constants after loading, and initialising memories as an identity"
_BY_TYPE = "finding a base's config class by its model_type"
_BY_CONFIG = "finding a base's classes by its config"
# Methods of a cache that also apply to the memory's past.
_OF_CACHES = (
    "reset",
    "crop",
    "reorder_cache",
    "batch_repeat_interleave",
    "batch_select_indices",
    "get_seq_length",
)
# Mappings, each with a model type of which it has an entry.
_MAPPINGS = (
    ("CONFIG_MAPPING", "llama", _BY_TYPE),
    ("MODEL_FOR_CAUSAL_LM_MAPPING", "llama", _BY_CONFIG),
    ("TOKENIZER_MAPPING", "gpt2", _BY_CONFIG),
    ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "llava", _BY_CONFIG),
    ("PROCESSOR_MAPPING", "llava", _BY_CONFIG),
    ("MODEL_FOR_MULTIMODAL_LM_MAPPING", "llava", _BY_CONFIG),
)

SEAMS = (
    Seam(
        "GenerationMixin.prepare_inputs_for_generation(cache or past_key_values)",
        "keeping the memory's past in the cache of a call",
        _generation_takes_a_cache,
    ),
    *(callable_seam(PACKAGE, f"Cache.{name}", _PAST) for name in _OF_CACHES),
    Seam(
        "Cache.activate_past_recording, if there is one",
        "cropping a cache with sliding windows",
        _past_is_recorded,
    ),
    Seam(
        "EncoderDecoderCache.self_attention_cache",
        "the memory's past in caches of two parts",
        _decoders_have_their_own_cache,
    ),
    callable_seam(
        PACKAGE,
        "PreTrainedConfig.__post_init__",
        "making a family's model class when the first config of its type is seen",
    ),
    *(
        Seam(f"{it}._auto_class, {it}.register_for_auto_class", _COPIES, partial(_copies_file, it))
        for it in ("PreTrainedConfig", "PreTrainedModel")
    ),
    callable_seam(PACKAGE, "PreTrainedModel._init_weights", _CONSTANTS, "self", "module"),
    *(
        Seam(mapping, reason, partial(_is_mapped, mapping, model_type))
        for mapping, model_type, reason in _MAPPINGS
    ),
    *(
        get_checkpoint_conversion_mapping,
        register_checkpoint_conversion_mapping,
        revert_weight_conversion,
        add_generation_mixin_to_remote_model,
    ),
    *(get_class_from_dynamic_module, get_relative_import_files),
    _load_pretrained_model,
    Seam(
        "PreTrainedModel.from_pretrained(None, config, state_dict) of tensors without values",
        "proving from headers that a checkpoint loads whole",
        loads_from_headers,
    ),
    *(get_modules_to_not_convert, quantiser_from_config, Conv1D),
    callable_seam(PACKAGE, "GenerationMixin.init_continuous_batching", _CONTINUOUS),
    callable_seam(f"{PACKAGE}.generation.continuous_batching", "PagedAttentionCache", _CONTINUOUS),
    Seam(
        "PeftAdapterMixin._hf_peft_config_loaded",
        "telling a saved adapter from a saved model",
        _adapters_are_flagged,
    ),
)
# Probed when a run is to have loggers: transformers then imports every package for training that
# is installed, which takes a second.
SEAMS_OF_LOGGERS = (find_loggers, installed_loggers)
