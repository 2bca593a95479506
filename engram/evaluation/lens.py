"""`Lens`: the prediction of a model from the state after any of its layers (logit lens).

The state goes through everything that the model does after its last layer: the streams are
collapsed, the final norm and the head follow, logits are scaled and capped as the model does it
(nostalgebraist 2020; arXiv 2601.07372, section 6.1.1).

Shapes: N tokens, M streams, D hidden size, V vocabulary, L decoder layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.evaluation.layer_states import state_in
from engram.hf.unwired import base_of
from engram.hf.wiring import find_layers

# Logits that are held in float32 at a time, a few times over: 64 MiB.
_CHUNK_LOGITS = 2**24


class LensReading(NamedTuple):
    """Predictions of N tokens after each of L layers, in nats: float64 on the CPU.

    Attributes:
        divergences: Kullback-Leibler divergence KL(last || layer) ``[L, N]``; zero in the last
            layer.
        losses: Loss of the token that follows ``[L, N]``.
    """

    divergences: Tensor
    losses: Tensor


class Lens:
    """Reads the states of a model's layers with its own final norm and head.

    It runs a copy of the model without memories, which shares its weights, and in which layers pass
    their input on and the last one returns the state. The model itself is not changed.

    Args:
        model: A causal language model.

    Raises:
        LayoutError: Its layers cannot be found.
    """

    def __init__(self, model: Any) -> None:
        self._head = base_of(model).eval()
        layers = find_layers(self._head)[1]
        ends = [_Through(layer) for layer in layers]
        self._last = ends[-1]
        with torch.no_grad():
            outputs: list[Any] = []
            hook = layers[-1].register_forward_hook(lambda *call: outputs.append(call[-1]))
            self._run(1)
            hook.remove()
        for number, end in enumerate(ends):
            # A layer may return more than its state, such as attentions: nothing reads that here.
            end.extras = len(outputs[0]) - 1 if isinstance(outputs[0], tuple) else None
            layers[number] = end
        self._device = state_in(outputs[0]).device

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """Return the prediction from states of a layer.

        Args:
            states: States of single tokens ``[N, D]`` or ``[N, M, D]``.

        Returns:
            Logits ``[N, V]``, of the model's dtype.
        """
        # N sequences of one token: nothing after the last layer looks at other tokens.
        self._last.state = states[:, None].to(self._device)
        try:
            return self._run(len(states))[:, 0]
        finally:
            self._last.state = None

    def read(self, states: Sequence[Tensor], following: Tensor) -> LensReading:
        """Measure the prediction after each layer: how far it is from the last one, and its loss.

        Args:
            states: States of the same tokens after each of the L layers, each ``[N, D]`` or
                ``[N, M, D]``.
            following: Ids of the tokens that follow ``[N]``.
        """
        shape = (len(states), len(following))
        divergences, losses = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        for begin in range(0, len(following), self._chunk):
            chunk = slice(begin, begin + self._chunk)
            last = self._log_probabilities(states[-1][chunk])
            targets = following[chunk, None].to(last.device)
            for number, state in enumerate(states):
                logs = last
                if number < len(states) - 1:
                    logs = self._log_probabilities(state[chunk])
                    kl = F.kl_div(logs, last, log_target=True, reduction="none").sum(dim=-1)
                    divergences[number, chunk] = kl.clamp_min(0).double().cpu()
                losses[number, chunk] = -logs.gather(-1, targets)[:, 0].double().cpu()
        return LensReading(divergences, losses)

    @property
    def _chunk(self) -> int:
        return max(1, _CHUNK_LOGITS // int(self._head.config.get_text_config().vocab_size))

    def _log_probabilities(self, states: Tensor) -> Tensor:
        logits = self.logits(states)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # As log_softmax, whose sum over a large vocabulary is less exact.
        return wide - wide.logsumexp(dim=-1, keepdim=True)

    def _run(self, tokens: int) -> Tensor:
        """Run the copy on sequences of one token each, any of them; logits ``[N, 1, V]``."""
        ids = torch.zeros(tokens, 1, dtype=torch.int64, device=self._head.device)
        logits: Tensor = self._head(input_ids=ids, use_cache=False).logits
        return logits


class _Through(nn.Module):
    """Stands in a layer's place, with its attributes: returns the state, or else its input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.__dict__["replaced"] = layer  # not as a part of this module
        self.state: Tensor | None = None
        self.extras: int | None = None

    def __getattr__(self, name: str) -> Any:
        """Decoders ask their layers for attributes, such as the kind of attention."""
        return getattr(self.__dict__["replaced"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what a layer returns."""
        given = args[0] if args else kwargs["hidden_states"]
        state = given if self.state is None else self.state
        return state if self.extras is None else (state, *[None] * self.extras)
