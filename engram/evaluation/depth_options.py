"""`DepthOptions`: how much text `measure_depth` reads, and how."""

from __future__ import annotations

from dataclasses import dataclass

from engram.arguments import check_fields


@dataclass(frozen=True, kw_only=True)
class DepthOptions:
    """Options of `measure_depth`; those of the command ``engram depth`` are the same.

    Attributes:
        tokens: Tokens to read, at most.
        context: Tokens of a window; when None that of the training, else 512, and never more than
            the model was made for.
        nearest: Layers of the base that an effective depth averages.
        seed: Seed of the order of documents, and of minibatches.

    Raises:
        UsageError: A value is of another type, or too small.
    """

    tokens: int = 20_000
    context: int | None = None
    nearest: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, tokens=2, context=2, nearest=1, seed=0)
