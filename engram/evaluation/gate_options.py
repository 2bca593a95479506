"""`GateOptions`: how gates are read, and which n-grams of a data set are named."""

from dataclasses import dataclass

from engram.arguments import check_fields


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """Options of `read_gates`; those of the command ``engram gates`` are the same.

    Attributes:
        context: Tokens of a window; when None 2,048, and never more than the model was made for.
        tokens: Tokens of a data set that are read, at most, of documents in random order.
        top: N-grams that are named for each gate, and for the loss.
        min_count: Times that an n-gram has to occur to be named.
        seed: Seed of the order of documents.

    Raises:
        UsageError: A value is of another type, or too small.
    """

    context: int | None = None
    tokens: int = 100_000
    top: int = 10
    min_count: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, context=2, tokens=2, top=1, min_count=1, seed=0)
