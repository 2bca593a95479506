"""Puts memories into a transformers model: finds its layers, gives them modules, feeds them ids.

The decoder and its layers keep their weights, hooks and names; only their classes are exchanged for
subclasses that know of the memory. Ids, mask and state travel with the call, as a keyword argument
that the decoder passes to its layers, so that threads and checkpointed recomputation see their own.

Shapes: B sequences, T tokens, D hidden size, L layers with a memory, C columns.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from engram.addressing.addresses import Addresses
from engram.config import EngramConfig
from engram.errors import InputError, LayoutError
from engram.hf.ids import MemoryIds
from engram.hf.state import MemoryState, state_of
from engram.nn import EngramModule


@dataclass(frozen=True)
class Lookup:
    """What one call of the model tells its layers.

    Attributes:
        ids: Hash ids without offsets ``[B, T, L, C]``.
        keep: False at masked positions ``[B, T]``; None when there are none.
        state: The memory's past in the call's cache; None without a cache.
    """

    ids: Tensor
    keep: Tensor | None
    state: MemoryState | None


def find_layers(model: Any) -> tuple[Any, Any, str]:
    """Find the decoder of a causal language model and its list of layers.

    Args:
        model: A transformers model, on any device, the meta device included.

    Returns:
        The decoder, its layers, and the dotted name of the list in the model.

    Raises:
        LayoutError: There is no one list as long as the model is deep.
    """
    config = model.config.get_text_config()
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    depth = getattr(config, "num_hidden_layers", None)
    found = {
        name: child
        for name, child in decoder.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == depth
    }
    if len(found) != 1:
        what = (
            f"{len(found)} lists of {depth} layers ({', '.join(found)})"
            if found
            else "no such list"
        )
        raise LayoutError(
            f"Where the layers of {type(model).__name__} are cannot be told: its decoder "
            f"{type(decoder).__name__} has {what}.",
            "Attaching needs a decoder with one list of num_hidden_layers layers.",
            model=type(model).__name__,
        )
    name, layers = next(iter(found.items()))
    prefix = next(path for path, module in model.named_modules() if module is decoder)
    return decoder, layers, f"{prefix}.{name}" if prefix else name


def wire(model: Any, config: EngramConfig, addresses: Addresses) -> None:
    """Give a model memories, in place.

    Adds ``<layer>.engram`` modules, with the token map as a buffer of the first one.

    Args:
        model: A transformers causal language model.
        config: The memory.
        addresses: Its constants; the token map may be missing, it is then loaded with the weights.

    Raises:
        LayoutError: The layers cannot be found, lie past the model's depth, or have another width.
    """
    decoder, layers, path = find_layers(model)
    check_fits(config, addresses.layer_ids, model.config.get_text_config())
    dtype, distributions = model.dtype, addresses.vocab_distributions
    for index, layer in enumerate(layers):
        layer.__class__ = _with_memory(layer.__class__, MemoryLayer)
        layer.engram_layer_id = index
        if index in distributions:
            module = EngramModule(config, distributions[index], init="identity")
            layer.engram = module.to(dtype)
    if addresses.map_sha256 is not None:
        token_map = torch.zeros(addresses.raw_vocab_size, dtype=torch.int32)
        if addresses.token_map is not None:
            token_map = torch.from_numpy(addresses.token_map)
        first = layers[addresses.layer_ids[0]].engram
        first.register_buffer("token_map", token_map, persistent=True)
    decoder.__class__ = _with_memory(decoder.__class__, MemoryDecoder)
    decoder.engram_ids = MemoryIds(addresses)
    decoder.engram_layers_name = path.rpartition(".")[2]


def check_fits(config: EngramConfig, layer_ids: list[int], backbone: Any) -> None:
    """Compare a memory with the backbone it is for.

    Args:
        config: The memory.
        layer_ids: Layers that are to read it.
        backbone: The transformers config of the text model.

    Raises:
        LayoutError: A layer lies past the depth, or the hidden sizes differ.
    """
    depth, width = backbone.num_hidden_layers, backbone.hidden_size
    beyond = [layer_id for layer_id in layer_ids if layer_id >= depth]
    if beyond:
        raise LayoutError(
            f"Layers {beyond} lie past the model's {depth} layers (0..{depth - 1}).",
            "Choose other layer_ids in the config.",
            layer_ids=beyond,
            num_layers=depth,
        )
    if config.hidden_size != width:
        raise LayoutError(
            f"The memory is {config.hidden_size} wide, the model {width}.",
            f"Set hidden_size: {width} in the config.",
            hidden_size=config.hidden_size,
            model_hidden_size=width,
        )


class MemoryLayer(nn.Module):
    """Mixed into a decoder layer's class: adds the memory to the layer's input."""

    engram_layer_id: int

    def forward(
        self, hidden_states: Tensor, *args: Any, engram: Lookup | None = None, **kwargs: Any
    ) -> Any:
        """Run the layer on its input ``[B, T, D]`` plus the memory, where it has one."""
        memory = self._modules.get("engram")
        if isinstance(memory, EngramModule):
            if engram is None:
                raise InputError(
                    f"Layer {self.engram_layer_id} was called without its memory's ids.",
                    "Call the whole model, not its layers.",
                )
            hidden_states = _read(memory, self.engram_layer_id, hidden_states, engram)
        return super().forward(hidden_states, *args, **kwargs)


def _read(memory: EngramModule, layer_id: int, hidden_states: Tensor, lookup: Lookup) -> Tensor:
    ids = lookup.ids[:, :, memory.slot]
    record = None if lookup.state is None else lookup.state.windows[layer_id]
    window = None if record is None else record.last(memory.window_tokens)
    out, conv_inputs = memory.add_step(hidden_states, ids, keep=lookup.keep, window=window)
    if record is not None and conv_inputs is not None and memory.window_tokens:
        record.append(conv_inputs)
    return out


class MemoryDecoder(nn.Module):
    """Mixed into a decoder's class: hashes the call's token ids and passes them to the layers."""

    engram_ids: MemoryIds
    engram_layers_name: str
    engram_positional: tuple[str, ...]

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Run the decoder. Takes what it took before, and `engram_input_ids` and `engram_mask`."""
        kwargs.update(zip(self.engram_positional, args, strict=False))
        token_ids = kwargs.pop("engram_input_ids", None)
        mask = kwargs.pop("engram_mask", None)
        token_ids = input_ids if token_ids is None else token_ids
        if token_ids is None:
            raise InputError(
                "The memory reads token ids, and the model was called with inputs_embeds alone.",
                "Pass the same tokens' ids as engram_input_ids=.",
            )
        if mask is None:
            mask = kwargs.get("attention_mask")
        state = self._state(kwargs)
        lookup = self._look_up(token_ids, mask, kwargs.get("position_ids"), state)
        return super().forward(input_ids, engram=lookup, **kwargs)

    def _state(self, kwargs: dict[str, Any]) -> MemoryState | None:
        """Return the memory's state in the call's cache, made here if the decoder would make it."""
        if self.training and getattr(self, "gradient_checkpointing", False):
            return None
        config: Any = self.config
        past = kwargs.get("past_key_values")
        use_cache = kwargs.get("use_cache")
        if past is None:
            if not (config.use_cache if use_cache is None else use_cache):
                return None
            from transformers import DynamicCache

            past = kwargs["past_key_values"] = DynamicCache(config=config)
        state = state_of(past, self.engram_ids.addresses.layer_ids)
        state.check_length(int(past.get_seq_length()))
        return state

    def _look_up(
        self,
        ids: Tensor,
        mask: Tensor | None,
        position_ids: Tensor | None,
        state: MemoryState | None,
    ) -> Lookup:
        ids = ids.view(-1, ids.shape[-1])
        length = ids.shape[1]
        keep = None if mask is None or mask.ndim != 2 else mask[:, -length:].bool()
        starts = document_starts(position_ids, ids)
        hashed = self.engram_ids(ids, self.engram_token_map, keep, starts, state)
        return Lookup(hashed, keep, state)

    @property
    def engram_layers(self) -> nn.ModuleList:
        """The decoder's list of layers."""
        layers: nn.ModuleList = self._modules[self.engram_layers_name]  # type: ignore[assignment]
        return layers

    @property
    def engram_token_map(self) -> Tensor | None:
        """The compressed vocabulary, int32 ``[V]``: a buffer of the first layer with a memory."""
        first: Any = self.engram_layers[self.engram_ids.addresses.layer_ids[0]]
        token_map: Tensor | None = first.engram._buffers.get("token_map")
        return token_map


def document_starts(position_ids: Tensor | None, ids: Tensor) -> Tensor | None:
    """Tell where packed documents start: where position ids do not grow.

    Args:
        position_ids: Positions ``[B, T]`` or ``[1, T]``; None when the call has none.
        ids: Token ids ``[B, T]``.

    Returns:
        True at the first token of every document but a row's first ``[B, T]``; None when there
        can be none.
    """
    if position_ids is None or position_ids.ndim != 2 or ids.shape[1] == 1:
        return None
    starts = torch.zeros_like(ids, dtype=torch.bool)
    starts[:, 1:] = position_ids[:, 1:] <= position_ids[:, :-1]
    return starts


@cache
def _with_memory(base: Any, mixin: Any) -> Any:
    names = list(inspect.signature(base.forward).parameters)[2:]
    # The name stays the base's: wrapping policies and target lists name classes.
    return type(
        base.__name__,
        (mixin, base),
        {"__module__": base.__module__, "engram_positional": tuple(names)},
    )
