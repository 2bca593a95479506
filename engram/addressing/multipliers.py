"""Hash multipliers: odd, one per layer and look-back position, small enough to avoid overflow."""

from collections.abc import Sequence

from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError

LAYER_STEP = 10007
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def multipliers(
    config: EngramConfig, vocab_size: int, layer_ids: Sequence[int] | None = None
) -> dict[int, tuple[int, ...]]:
    """Draw the N multipliers of every layer.

    Args:
        config: The memory; its layout selects the generator, its seed the start.
        vocab_size: Size of the vocabulary that is hashed: the compressed one, or the raw one for
            qwen_ple.
        layer_ids: Layers; those of the config when None.

    Returns:
        N odd multipliers below ``2^63 / vocab_size`` per layer, in the order of `layer_ids`.

    Raises:
        LayoutError: The seed of a layer is negative.
    """
    ids = list(config.layer_ids if layer_ids is None else layer_ids)
    layout = config.rules
    half = max(1, (2**63 - 1) // vocab_size // 2)
    keys = ids if layout.multiplier_key == "layer_id" else [*map(sorted(ids).index, ids)]
    draw = _pcg64 if layout.multiplier_draw == "pcg64" else _splitmix64
    return {
        layer_id: draw(config.seed + LAYER_STEP * key, half, config.max_ngram_size)
        for layer_id, key in zip(ids, keys, strict=True)
    }


def _pcg64(seed: int, half: int, count: int) -> tuple[int, ...]:
    """Draw with numpy's default generator, like the reference demo (a test pins the values)."""
    import numpy as np

    if seed < 0:
        raise LayoutError(f"The seed of a layer must be >= 0, got {seed}.", seed=seed)
    draws = np.random.default_rng(seed).integers(0, half, size=count, dtype=np.int64)
    return tuple(2 * int(draw) + 1 for draw in draws)


def _splitmix64(seed: int, half: int, count: int) -> tuple[int, ...]:
    values = []
    for index in range(count):
        # The generator adds the constant once more before it mixes.
        state = (seed + _GOLDEN * (index + 1) + _GOLDEN) & _MASK
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) & _MASK
        values.append((2 * ((state ^ state >> 31) % half) + 1) & _MASK)
    return tuple(values)
