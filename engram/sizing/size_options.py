"""`SizeOptions`: the shape of a memory, and the one thing that its table sizes follow from."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from engram.arguments import check_fields
from engram.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """Options of `engram.size`; those of the command ``engram size`` have the same names.

    At most one of budget, share, memory, k and rows is given; without one of them the tables are
    those that `corpus` fills to `load`, or else a share of 0.25 of the model.

    Attributes:
        budget: Parameters of the memory, tables and dense parts.
        share: Memory's share of the whole after attaching, such as 0.25, "1/4" or "25%".
        memory: Bytes for tables and modules.
        k: Rows per n-gram order as a multiple of the vocabulary.
        rows: Rows per n-gram order.
        corpus: File with what ``engram hash --json`` printed of a text.
        load: Share of a table's rows that the corpus may fill, between 0 and 1.
        tokens: Tokens of the text to size for, predicted from the growth of `corpus`.
        fill: Instead of a whole k, this fraction of the rows that fill the budget; 1 takes all.
        per: Whether k and rows count rows of an n-gram order (all of its heads) or of one head.
        layers: Layers (0-based) that read the memory; by default the second and the middle one.
        heads: Hash heads per order.
        dim: Memory width per order.
        max_ngram_size: Highest n-gram order; the layout's when None.
        hidden_size: Width of the hidden states; the model's when None.
        vocab: Token ids; the length of the model's tokenizer when None.
        hc_mult: Residual streams; the model's when None.
        kernel_size: Taps of the convolution; the layout's when None.
        layout: Name of a layout, see `engram.layouts`.
        dtype: dtype of the tables; the model's own when None.

    Raises:
        UsageError: Options exclude each other, or are of another type.
    """

    budget: int | None = None
    share: str | float | Fraction | None = None
    memory: int | None = None
    k: float | None = None
    rows: int | None = None
    corpus: str | Path | None = None
    load: float = 0.7
    tokens: int | None = None
    fill: str | float | None = None
    per: Literal["order", "head"] = "order"
    layers: Sequence[int] | None = None
    heads: int = 8
    dim: int = 512
    max_ngram_size: int | None = None
    hidden_size: int | None = None
    vocab: int | None = None
    hc_mult: int | None = None
    kernel_size: int | None = None
    layout: str = "demo"
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        sizes = self.sizes
        by_corpus = self.corpus is not None and not sizes
        if len(sizes) > 1:
            raise UsageError(f"--{' and --'.join(sizes)} exclude each other.", "Give one of them.")
        if self.tokens is not None and self.corpus is None:
            raise UsageError("--tokens predicts from a text.", "Give its statistics with --corpus.")
        if self.fill is not None and (by_corpus or not {"k", "rows"}.isdisjoint(sizes)):
            raise UsageError(
                "--fill is a part of a budget, but the size is given already.", "Leave it out."
            )

    @property
    def sizes(self) -> list[str]:
        """Names of the sizes that are given, one at most."""
        names = ("budget", "share", "memory", "k", "rows")
        return [name for name in names if getattr(self, name) is not None]
