"""`LayerWatch`: the hidden state after every decoder layer in a forward pass, of any family.

Shapes: B sequences, T tokens, M streams, D hidden size, L decoder layers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from engram.errors import LayoutError
from engram.hf.wiring import find_layers


class LayerWatch:
    """Keeps what the layers of a model returned, within a block.

    Args:
        model: A causal language model, with a memory or without one.

    Raises:
        LayoutError: The layers cannot be found.
    """

    def __init__(self, model: Any) -> None:
        self._model = type(model).__name__
        self._layers = find_layers(model)[1]
        self._states: dict[int, Tensor] = {}

    def __enter__(self) -> LayerWatch:
        self._hooks = [
            layer.register_forward_hook(partial(self._keep, number))
            for number, layer in enumerate(self._layers)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def take(self, shape: tuple[int, int]) -> list[Tensor]:
        """Return the states of the last forward pass, and forget them.

        Args:
            shape: Sequences B and tokens T of the pass.

        Returns:
            The L states ``[B, T, D]``, or ``[B, T, M, D]`` of a model with several streams, without
            a graph, where the layers are.

        Raises:
            LayoutError: A layer did not run, or returned something else.
        """
        states, self._states = self._states, {}
        for number in range(len(self._layers)):
            if number not in states or states[number].shape[:2] != torch.Size(shape):
                raise LayoutError(
                    f"Layer {number} of {self._model} returned no state by sequence and token.",
                    "Choose a decoder whose layers pass hidden states [B, T, D] to each other.",
                    layer_id=number,
                    model=self._model,
                )
        return [states[number] for number in range(len(self._layers))]

    def _keep(self, number: int, layer: Any, args: Any, output: Any) -> None:
        self._states[number] = state_in(output).detach()


def state_in(output: Any) -> Tensor:
    """Return the hidden state in what a layer returned: a tensor, or a tuple that begins with it.

    Args:
        output: The layer's output.
    """
    state: Tensor = output[0] if isinstance(output, tuple) else output
    return state
