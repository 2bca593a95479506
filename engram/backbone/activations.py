"""Estimates what a base model needs beside its weights: key-value cache and activations.

Counted is what autograd keeps for the backward pass of transformers' modelling files (5.24.0, sdpa
attention, eager in gemma2, no gradient checkpointing, no dropout), with which a test compares every
family: its hooks on saved tensors see the same bytes. What is computed and dropped again, and what
the allocator loses, is not in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

# Bytes of float32, in which norms, softmax and the loss are computed in any dtype.
_FULL = 4
_ELEMENT_PAIR = tuple[int, int]
# Config keys with the type of each layer; the last is a text with a letter for each.
_TYPES = ("layer_types", "layers_block_type", "hybrid_override_pattern")
# Types without a cache that grows, as transformers names them, and the letters of nemotron_h.
_UNCACHED = ("linear_attention", "mamba", "conv", "moe", "mlp", "M", "-", "E")
# Config keys that a decoder's widths follow from.
_WIDTHS = (
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
    *("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    *("intermediate_size", "moe_intermediate_size"),
    *("num_experts", "num_experts_per_tok", "n_shared_experts"),
)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Bytes of one token in one layer that are kept for the backward pass, by width.

    A pair (a, b) is a + b x bytes of an element of the model, for each column of the width.

    Attributes:
        hidden: By hidden width.
        feed_forward: By feed-forward width; in a mixture, by that of the experts a token is sent
            to.
        queries: By query heads x head width.
        keys: By key-value heads x head width.
        routed: By hidden width x experts a token is sent to.
    """

    hidden: _ELEMENT_PAIR
    feed_forward: _ELEMENT_PAIR
    queries: _ELEMENT_PAIR
    keys: _ELEMENT_PAIR
    routed: _ELEMENT_PAIR = (0, 0)


@dataclass(frozen=True, kw_only=True)
class KeptOf:
    """Bytes that a family keeps.

    Attributes:
        trained: Bytes where all weights are trained.
        frozen: Bytes where gradients only pass through: no layer's inputs are kept for its weights.
        heads: Bytes by query head.
        key_heads: Bytes by key-value head.
        constant: Bytes of each token: (a, b) as in `Kept`.
        scores: Bytes by query head and position attended to, in eager attention.
        logits: Bytes by vocabulary row, (a, b) as in `Kept`.
    """

    trained: Kept
    frozen: Kept
    heads: int = 4
    key_heads: int = 0
    constant: _ELEMENT_PAIR = (8, 0)
    scores: int = 0
    logits: _ELEMENT_PAIR = (4, 0)


_LLAMA = KeptOf(
    trained=Kept(hidden=(8, 4), feed_forward=(0, 4), queries=(0, 2), keys=(0, 2), routed=(0, 2)),
    frozen=Kept(hidden=(8, 0), feed_forward=(0, 3), queries=(0, 2), keys=(0, 2), routed=(0, 1)),
)
_QWEN3 = KeptOf(
    trained=Kept(hidden=(8, 4), feed_forward=(0, 4), queries=(4, 3), keys=(4, 3), routed=(0, 2)),
    frozen=Kept(hidden=(8, 0), feed_forward=(0, 3), queries=(4, 2), keys=(4, 2), routed=(0, 1)),
    heads=8,
    key_heads=4,
)
_GEMMA3 = KeptOf(
    trained=Kept(hidden=(32, 2), feed_forward=(0, 4), queries=(8, 2), keys=(8, 2)),
    frozen=Kept(hidden=(16, 0), feed_forward=(0, 3), queries=(4, 2), keys=(4, 2)),
    heads=8,
    key_heads=4,
    constant=(16, 0),
)
# Families that are not here are estimated as llama.
_FAMILIES = {
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3,
    "gemma2": KeptOf(
        trained=Kept(hidden=(32, 2), feed_forward=(0, 4), queries=(0, 4), keys=(0, 0)),
        frozen=Kept(hidden=(16, 0), feed_forward=(0, 3), queries=(0, 3), keys=(0, 0)),
        heads=0,
        constant=(16, 0),
        scores=8,
        logits=(4, 1),
    ),
    "gemma3_text": _GEMMA3,
    "olmo2": KeptOf(
        trained=Kept(hidden=(16, 2), feed_forward=(0, 4), queries=(8, 2), keys=(8, 2)),
        frozen=Kept(hidden=(8, 0), feed_forward=(0, 3), queries=(4, 2), keys=(4, 2)),
        constant=(16, 0),
    ),
    "phi3": KeptOf(
        trained=Kept(hidden=(8, 4), feed_forward=(0, 4), queries=(0, 4), keys=(0, 3)),
        frozen=Kept(hidden=(8, 0), feed_forward=(0, 3), queries=(0, 3), keys=(0, 3)),
    ),
    "gpt2": KeptOf(
        trained=Kept(hidden=(0, 8), feed_forward=(0, 5), queries=(0, 0), keys=(0, 0)),
        frozen=Kept(hidden=(0, 6), feed_forward=(0, 4), queries=(0, 0), keys=(0, 0)),
        constant=(0, 4),
    ),
    "gpt_neox": KeptOf(
        trained=Kept(hidden=(0, 10), feed_forward=(0, 2), queries=(0, 0), keys=(0, 0)),
        frozen=Kept(hidden=(0, 7), feed_forward=(0, 1), queries=(0, 0), keys=(0, 0)),
        constant=(0, 4),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Widths of a decoder on which its cache and its activations depend.

    Attributes:
        model_type: Family in transformers.
        layers: Decoder layers.
        hidden: Width of the hidden states.
        feed_forward: Feed-forward width; in a mixture that of all experts a token is sent to.
        heads: Query heads.
        key_heads: Key-value heads.
        head: Width of a query head.
        vocab: Rows of the vocabulary.
        experts: Routed experts that a token is sent to; 0 without a mixture.
        cached: Values that one layer caches of a token: keys and values.
        window: Positions that a layer with a sliding window caches at most; None without one.
        window_layers: Layers with a sliding window.
        full_layers: Layers that cache all positions; the rest, such as linear attention, have a
            state of a fixed size, which is not counted.
        positions: Positions that the model was made for; None when the config does not say.
    """

    model_type: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    key_heads: int
    head: int
    vocab: int
    experts: int
    cached: int
    window: int | None
    window_layers: int
    full_layers: int
    positions: int | None

    @classmethod
    def from_keys(
        cls, keys: Mapping[str, Any], model_type: str, attentions: Any = None
    ) -> Self | None:
        """Read the widths from a config's keys under their canonical names.

        Args:
            keys: The keys, their values checked only for families that the toolkit knows.
            model_type: Family in transformers.
            attentions: Attentions of all layers, where a layer may have several.

        Returns:
            The widths; None where the config does not state heads, or layers differ in a width.
        """
        # Null, zero and a missing key mean the default.
        stated = {key: value for key in _WIDTHS if (value := keys.get(key))}
        if any(type(value) is not int or value < 0 for value in stated.values()):
            return None
        hidden, layers = keys["hidden_size"], keys["num_hidden_layers"]
        heads = stated.get("num_attention_heads", 0)
        key_heads = stated.get("num_key_value_heads", heads)
        if "kv_lora_rank" in stated:  # transformers caches the expanded keys and values
            head = stated.get("qk_nope_head_dim", 0) + stated.get("qk_rope_head_dim", 0)
            cached = heads * (head + stated.get("v_head_dim", 0))
        else:
            head = stated.get("head_dim", hidden // max(1, heads))
            cached = 2 * key_heads * head
        if not heads or not head:
            return None
        experts = stated.get("num_experts_per_tok", 0) if "num_experts" in stated else 0
        width = stated.get("intermediate_size", 4 * hidden)
        if experts:
            shared = stated.get("n_shared_experts", 0)
            width = stated.get("moe_intermediate_size", width) * (experts + shared)
        window, window_layers, full_layers = _cached_layers(
            keys, max(layers, attentions) if type(attentions) is int else layers
        )
        positions = keys.get("max_position_embeddings")
        return cls(
            model_type=model_type,
            layers=layers,
            hidden=hidden,
            feed_forward=width,
            heads=heads,
            key_heads=key_heads,
            head=head,
            vocab=keys["vocab_size"],
            experts=experts,
            cached=cached,
            window=window,
            window_layers=window_layers,
            full_layers=full_layers,
            positions=positions if type(positions) is int and positions > 0 else None,
        )

    def cache_bytes(self, context: int, element_bytes: int) -> int:
        """Return the bytes of the key-value cache of one sequence.

        Args:
            context: Tokens of the sequence.
            element_bytes: Bytes of an element of the cache: those of the model's dtype.
        """
        inside = context if self.window is None else min(context, self.window)
        positions = self.window_layers * inside + self.full_layers * context
        return positions * self.cached * element_bytes

    def kept_bytes(
        self, context: int, element_bytes: int, *, is_frozen: bool, layers: int | None = None
    ) -> int:
        """Return the bytes that autograd keeps of one token, the logits' apart.

        Args:
            context: Tokens of its sequence.
            element_bytes: Bytes of an element of the activations.
            is_frozen: Whether gradients only pass through the layers.
            layers: Layers that gradients pass through; all when None.
        """
        of = _FAMILIES.get(self.model_type, _LLAMA)
        kept = of.frozen if is_frozen else of.trained
        widths = (
            (kept.hidden, self.hidden),
            (kept.feed_forward, self.feed_forward),
            (kept.queries, self.heads * self.head),
            (kept.keys, self.key_heads * self.head),
            (kept.routed, self.hidden * self.experts),
            (of.constant, 1),
        )
        per_layer = sum((a + b * element_bytes) * width for (a, b), width in widths)
        per_layer += self.heads * (of.heads + of.scores * context) + self.key_heads * of.key_heads
        return per_layer * (self.layers if layers is None else layers)

    def logits_bytes(self, element_bytes: int) -> int:
        """Return the bytes that the loss of one token keeps of the logits."""
        fixed, per_element = _FAMILIES.get(self.model_type, _LLAMA).logits
        return (fixed + per_element * element_bytes) * self.vocab


def _cached_layers(keys: Mapping[str, Any], layers: int) -> tuple[int | None, int, int]:
    """Return the window of the cache, and how many layers cache a window, and all positions."""
    window = keys.get("sliding_window")
    types = next((it for key in _TYPES if isinstance(it := keys.get(key), (list, str))), None)
    if type(window) is not int or window < 1 or keys.get("use_sliding_window") is False:
        window = None
    if types is not None:
        within = 0 if window is None else types.count("sliding_attention")
        return window, within, len(types) - within - sum(map(types.count, _UNCACHED))
    if window is None:
        return None, 0, layers
    # Gemma: every n-th layer attends to all positions.
    every = keys.get("sliding_window_pattern")
    full = layers // every if type(every) is int and every > 0 else 0
    return window, layers - full, full
