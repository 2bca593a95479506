"""Bytes beside weights and optimiser state: key-value cache and activations (estimated).

Tensors kept by autograd are counted op by op (`backbone.activations`, and below for the memory's
module), the loss by the tensors as large as the logits that are alive at once. Source: hooks on
saved tensors and the resident memory of real runs, which tests and a benchmark compare.
"""

from engram.backbone import Backbone
from engram.config.engram_config import EngramConfig
from engram.sizing.run_options import RunOptions

DEFAULT_CONTEXT = 4096
LORA_RANK = 16
# Part of the activations that an allocator loses to gaps between tensors of different lifetimes.
ALLOCATOR_SLACK = 0.1
# Part of a cache that the same loses while the cache grows: its tensors are copied at every token,
# each copy a little larger than the gap that the last one left.
_CACHE_GAPS = 0.5
_FULL = 4  # bytes of float32, in which loss and norms are computed
# Bytes that a memory's module keeps of a token: (a, b) as in `backbone.activations.Kept`, by
# hidden width, and by hidden width times streams; and bytes an element, by memory width, of ids
# and scalars.
_MODULES = {
    "demo": ((0, 1), (25, 1)),
    "qwen_ple": ((0, 1), (25, 1)),
    "deepseek_v41": ((4, 0), (12, 0)),
}
_ID_BYTES, _STREAM_BYTES = 8, 36


def context_of(options: RunOptions, backbone: Backbone | None) -> int:
    """Return the tokens of a sequence: as asked, or what the model takes, within reason."""
    if options.context is not None:
        return options.context
    positions = None if backbone is None or backbone.decoder is None else backbone.decoder.positions
    return min(DEFAULT_CONTEXT, positions or DEFAULT_CONTEXT)


def cache_bytes(backbone: Backbone, options: RunOptions, element_bytes: int) -> int:
    """Return the bytes of the key-value caches of all sequences; 0 if its heads are not known."""
    if backbone.decoder is None:
        return 0
    return options.batch * backbone.decoder.cache_bytes(
        context_of(options, backbone), element_bytes
    )


def activation_bytes(
    backbone: Backbone, config: EngramConfig | None, options: RunOptions, element_bytes: int
) -> int:
    """Return the bytes of activations at their peak; 0 if the model's heads are not known.

    In training what autograd keeps, and the loss; at inference what one layer computes of all
    tokens of the prompts, and the logits of their last ones.

    Args:
        backbone: The base model.
        config: The memory; None without one.
        options: The use.
        element_bytes: Bytes of an element of the activations.
    """
    decoder = backbone.decoder
    if decoder is None:
        return 0
    context = context_of(options, backbone)
    tokens = options.batch * context
    if options.mode == "inference":
        widest = max(3 * decoder.feed_forward, 4 * decoder.heads * decoder.head)
        memory = 0 if config is None else module_bytes(config, element_bytes)
        layer = element_bytes * (widest + 2 * decoder.hidden) + 2 * _FULL * decoder.hidden
        peak = tokens * max(layer, memory)
        peak += options.batch * decoder.vocab * (element_bytes + _FULL)
        gaps = _CACHE_GAPS * cache_bytes(backbone, options, element_bytes) / max(1, options.tp)
    else:
        gaps = 0.0
        is_frozen = options.train == "memory"
        first = min(config.layer_ids or [0]) if config is not None else 0
        layers = decoder.layers - first if is_frozen else decoder.layers
        peak = tokens * (
            decoder.kept_bytes(context, element_bytes, is_frozen=is_frozen, layers=layers)
            + decoder.logits_bytes(element_bytes)
            # The logits themselves, and two gradients of their size when the backward pass begins.
            + decoder.vocab * (element_bytes + 2 * _FULL)
            + (0 if config is None else module_bytes(config, element_bytes))
            * len(config.layer_ids or [] if config is not None else [])
        )
    return int(peak * (1 + ALLOCATOR_SLACK) + gaps)


def module_bytes(config: EngramConfig, element_bytes: int) -> int:
    """Return the bytes that a memory's module keeps of one token in one layer.

    Args:
        config: The memory.
        element_bytes: Bytes of an element of the activations.
    """
    hidden, streams = _MODULES.get(config.layout, _MODULES["demo"])
    width = config.hidden_size
    return (
        element_bytes * config.memory_width
        + (hidden[0] + hidden[1] * element_bytes) * width
        + (streams[0] + streams[1] * element_bytes) * width * config.hc_mult
        + _ID_BYTES * config.n_columns
        + _STREAM_BYTES * config.hc_mult
    )


def lora_params(backbone: Backbone) -> int:
    """Return the parameters of low-rank adapters of every projection of a dense decoder.

    Of a mixture those of the attention alone, as is usual.
    """
    decoder = backbone.decoder
    if decoder is None:
        return 0
    hidden, queries, keys = decoder.hidden, decoder.heads * decoder.head, decoder.cached // 2
    sums = 2 * (hidden + queries) + 2 * (hidden + keys)
    if not decoder.experts:
        sums += 3 * (hidden + decoder.feed_forward)
    return LORA_RANK * decoder.layers * sums
