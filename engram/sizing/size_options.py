"""`SizeOptions`: the shape of a memory, and the one thing that its table sizes follow from."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal

from engram.errors import UsageError
from engram.sizing.run_options import RunOptions


@dataclass(frozen=True, kw_only=True)
class SizeOptions(RunOptions):
    """Options of `engram.size`; those of the command ``engram size`` have the same names.

    At most one of budget, share, memory, k and rows is given. Without one of them the tables are
    those that `corpus` fills to `load`; else the largest that the machine holds, if a size of it is
    given; else a share of 0.25 of the model. A budget and a machine both limit them.

    Attributes:
        budget: Parameters of the memory, tables and dense parts.
        share: Memory's share of the whole after attaching, such as 0.25, "1/4" or "25%".
        memory: Bytes for tables and modules.
        k: Rows per n-gram order as a multiple of the vocabulary.
        rows: Rows per n-gram order.
        corpus: File with what ``engram hash --json`` printed of a text.
        load: Share of a table's rows that the corpus may fill, between 0 and 1.
        tokens: Tokens of the text to size for, predicted from the growth of `corpus`.
        train_tokens: Tokens of the training, for advice on how often it touches a row.
        learning_rate: Learning rate of the tables, for advice on how far a row moves; that of
            `engram.training` when None, or 2e-3 with an optimiser that is not one of rows.
        whole_k: Take the largest whole k, as engram_torch_unofficial rounds, not every row that
            fits.
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

    Raises:
        UsageError: Options exclude each other, or are of another type.
    """

    LEAST: ClassVar[dict[str, int]] = {
        **RunOptions.LEAST,
        **{"budget": 0, "memory": 0, "rows": 1, "tokens": 1, "train_tokens": 1},
    }

    budget: int | None = None
    share: str | float | Fraction | None = None
    memory: int | None = None
    k: float | None = None
    rows: int | None = None
    corpus: str | Path | None = None
    load: float = 0.7
    tokens: int | None = None
    train_tokens: int | None = None
    learning_rate: float | None = None
    whole_k: bool = False
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

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.sizes
        if len(sizes) > 1:
            raise UsageError(f"--{' and --'.join(sizes)} exclude each other.", "Give one of them.")
        if self.tokens is not None and self.corpus is None:
            raise UsageError("--tokens predicts from a text.", "Give its statistics with --corpus.")
        if self.whole_k and not self.is_solved:
            raise UsageError(
                "--whole-k rounds what fits down, but the size is given already.", "Leave it out."
            )

    @property
    def is_solved(self) -> bool:
        """Whether the size is the largest that fits, and not stated itself."""
        by_corpus = self.corpus is not None and not self.sizes and not self.has_machine
        return not by_corpus and {"k", "rows"}.isdisjoint(self.sizes)

    @property
    def sizes(self) -> list[str]:
        """Names of the sizes that are given, one at most."""
        names = ("budget", "share", "memory", "k", "rows")
        return [name for name in names if getattr(self, name) is not None]
