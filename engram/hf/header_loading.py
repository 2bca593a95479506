"""Loads a model from headers alone, to let transformers report missing weights.

No weights are read or kept: tensors have names, dtypes and shapes, but no values.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engram.nn.stored_dtypes import TORCH_DTYPES


@dataclass(frozen=True)
class Loading:
    """Result of loading a model from names, dtypes and shapes.

    Attributes:
        random: Parameters without a tensor, which would be initialised at random.
        mismatched: Parameters whose tensor has another shape: name, stored shape, model's shape.
    """

    random: list[str]
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]]


def load_from_headers(
    model_class: Any, config: Any, tensors: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Loading:
    """Load a model from names, dtypes and shapes.

    Args:
        model_class: A model class of transformers, or one with memories.
        config: Its config, without quantisation.
        tensors: Dtype tag (as safetensors names it) and shape of every tensor, by name.

    Raises:
        MismatchError: A tensor of the memory is missing or has another shape.
    """
    state = {
        name: _without_values(shape, TORCH_DTYPES.get(tag, torch.uint8))
        for name, (tag, shape) in tensors.items()
    }
    # The caller may be building a model on the meta device, where from_pretrained refuses to load.
    with _quiet(), torch.device("cpu"), _StayOnMeta():
        _, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    mismatched = [
        (str(name), tuple(stored), tuple(expected))
        for name, stored, expected in info["mismatched_keys"]
    ]
    return Loading(sorted(info["missing_keys"]), sorted(mismatched))


def loads_from_headers() -> bool:
    """Whether the installed transformers finds missing and mismatched tensors without values."""
    from transformers import PreTrainedConfig, PreTrainedModel

    class Probed(PreTrainedModel):  # type: ignore[misc]
        config_class = PreTrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.whole, self.other = nn.Linear(2, 3, bias=False), nn.Linear(4, 5)
            self.post_init()

    tensors = {"whole.weight": ("F32", (3, 2)), "other.weight": ("F32", (5, 6))}
    found = load_from_headers(Probed, PreTrainedConfig(), tensors)
    return found == Loading(["other.bias"], [("other.weight", (5, 6), (5, 4))])


class _Described(Tensor):
    """A tensor without values, which remains one when it is moved to a device."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        dtype = kwargs.get("dtype")
        return self if dtype is None else _without_values(self.shape, dtype)


def _without_values(shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    return torch.empty(shape, dtype=dtype, device="meta").as_subclass(_Described)


class _StayOnMeta(TorchFunctionMode):
    """Keeps allocations of transformers, such as missing weights, on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        on_meta = args and isinstance(args[0], Tensor) and args[0].device.type == "meta"
        if on_meta and "device" in kwargs:
            kwargs["device"] = torch.device("meta")
        return func(*args, **kwargs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' report and progress bar, since nothing is really loaded."""
    from transformers import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with without_bars():
            yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def without_bars() -> Iterator[None]:
    """Silence transformers' progress bars of loading, which it shows without being asked."""
    from transformers import logging

    were_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_enabled:
            logging.enable_progress_bar()
