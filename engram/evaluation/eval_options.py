"""`EvalOptions`: how much is evaluated, in windows of which length, and how."""

from dataclasses import dataclass
from typing import ClassVar

from engram.arguments import check_fields


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Options of `engram.evaluation.evaluate`; those of the command ``engram eval`` are the same.

    Attributes:
        LEAST: The least values of numbers, by name.
        tokens: Tokens to read, at most, of each part of the text: what was held out (or all of it),
            and what was trained on.
        context: Tokens of a window; when None that of the training, else 512, and never more than
            the model was made for.
        bootstrap: Times that documents are drawn for an interval.
        seed: Seed of the order of documents, of the permutation of rows, of the draws, and of the
            needles.
        bf16: Compute in bfloat16 where it is safe (autocast); weights stay as they are.
        batch_tokens: Tokens of a batch with its padding; a batch is at least one window.
        needles: Facts to hide in a context of the text and to ask for at its end; 0 for none.
        needle_context: Tokens of that context with its questions; `context` when None.

    Raises:
        UsageError: A value is of another type, or too small.
    """

    LEAST: ClassVar[dict[str, int]] = {
        **dict.fromkeys(("tokens", "context", "needle_context"), 2),
        **dict.fromkeys(("bootstrap", "batch_tokens"), 1),
        **dict.fromkeys(("seed", "needles"), 0),
    }

    tokens: int = 100_000
    context: int | None = None
    bootstrap: int = 2000
    seed: int = 0
    bf16: bool = False
    batch_tokens: int = 4096
    needles: int = 0
    needle_context: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, **self.LEAST)
