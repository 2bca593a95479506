"""`window_tokens`: how many tokens of a text a model reads at once in an evaluation."""

from __future__ import annotations

from engram.evaluation.open_models import OpenModel
from engram.training.learned_positions import demand_positions, stated_positions

_CONTEXT = 512


def window_tokens(opened: OpenModel, wanted: int | None, usual: int | None = None) -> int:
    """Return the tokens of a window.

    Args:
        opened: The model.
        wanted: The tokens that were asked for, if any.
        usual: What it is otherwise, as far as the model was made for it: the context of the
            training when None, else 512.

    Raises:
        UsageError: More were asked for than a model that learned its positions can read.
    """
    if wanted is not None:
        demand_positions(opened.model, wanted)
        return wanted
    if usual is None:
        usual = int((opened.training or {}).get("options", {}).get("context", _CONTEXT))
    return min(usual, stated_positions(opened.model) or usual)
