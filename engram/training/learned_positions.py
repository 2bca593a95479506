"""Positions that a model learned one by one: no window may be longer."""

from typing import Any

from torch import nn

from engram.errors import UsageError
from engram.tensor_names import is_memory

# Some models begin to count after a few.
_SPARE_POSITIONS = 8


def learned_positions(model: Any) -> int | None:
    """Return the number of positions of a model that learned each; None of any other model."""
    most: int | None = stated_positions(model)
    if most is None:
        return None
    is_learned = any(
        isinstance(module, nn.Embedding)
        and 0 <= module.num_embeddings - most < _SPARE_POSITIONS
        and module is not model.get_input_embeddings()
        and not is_memory(name)
        for name, module in model.named_modules()
    )
    return most if is_learned else None


def stated_positions(model: Any) -> int | None:
    """Return the positions that a model was made for, as its config states; None if it does not."""
    most: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return most or None


def demand_positions(model: Any, context: int, option: str = "context") -> None:
    """Refuse windows that are longer than a model that learned its positions can read.

    Args:
        model: The model.
        context: Tokens of a window.
        option: Name of the option that states it, in Python.

    Raises:
        UsageError: They are.
    """
    most = learned_positions(model)
    if most is not None and context > most:
        raise UsageError(
            f"A window of {context} tokens is longer than the {most} positions of the model.",
            f"Lower --{option.replace('_', '-')} (in Python, {option}).",
        )
