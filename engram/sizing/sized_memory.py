"""`Sizing`: a memory whose tables are sized, and how full a text makes them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engram.backbone import Backbone
from engram.config.engram_config import EngramConfig
from engram.sizing.counts import MemoryCount
from engram.sizing.table_load import OrderLoad
from engram.sizing.weights import total_of, weigh

SCHEMA = "engram.size/1"


@dataclass(frozen=True)
class CorpusFill:
    """The load of a memory's tables by the n-grams of a text.

    Attributes:
        file: File of its statistics.
        tokens: Tokens of the text that was counted.
        sized_for_tokens: Tokens of the text that fills the tables.
        wanted_load: Share of a table's rows that it may fill.
        orders: Each n-gram order.
    """

    file: str
    tokens: int
    sized_for_tokens: int
    wanted_load: float
    orders: Sequence[OrderLoad]


@dataclass(frozen=True, kw_only=True, repr=False)
class Sizing:
    """A memory with its tables sized.

    Attributes:
        config: The memory, its table size set.
        counts: Its parts, counted exactly.
        k: Largest whole k that fits (0: none); where the size was given, the k of the tables, None
            where orders differ.
        trial: Its bytes, placed, and what it takes of the budget and the machine.
        budget_params: Parameters that the memory may have; None without a budget of parameters.
        plan: The largest memory that fits; None where the size was given.
        seed_rule_k: k by the formula of engram_torch_unofficial; None without a budget.
        backbone: The base model, if one is known.
        corpus: How full a text makes the tables, where one was given.
        notes: Sentences about what was assumed.
    """

    config: EngramConfig
    counts: MemoryCount
    k: int | float | None
    trial: Trial
    budget_params: int | None = None
    plan: Plan | None = None
    seed_rule_k: int | None = None
    backbone: Backbone | None = None
    corpus: CorpusFill | None = None
    notes: tuple[str, ...] = ()

    @property
    def k_fill(self) -> float | None:
        """Largest k, in steps of 1/engram_vocab_size, that fits; None where the size was given."""
        if self.plan is None:
            return None
        return self.plan.rows_per_order / self.config.engram_vocab_size

    @property
    def fits(self) -> bool | None:
        """Whether budget and machine hold it; None if neither was given, or not all of it."""
        answers = [resource.fits for resource in self.trial.resources]
        return False if False in answers else None if None in answers else True

    @property
    def slack_params(self) -> int | None:
        """Parameters of the budget that are left over."""
        return None if self.budget_params is None else self.budget_params - self.counts.total_params

    def __repr__(self) -> str:
        rows = ", ".join(f"{rows:,}" for rows in self.config.engram_table_size)
        return f"<Sizing: {self.counts.total_params:,} parameters, rows per order {rows}>"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram size --json`` prints."""
        config, counts, backbone = self.config, self.counts, self.backbone
        model_params = None if backbone is None else backbone.params
        whole = counts.total_params + (model_params or 0)
        dtype, parts = weigh(counts, backbone)
        memory_bytes = sum(part.size_bytes for part in parts if part.group != "base")
        return {
            "schema": SCHEMA,
            "model": None if backbone is None else backbone.name,
            "layout": config.layout,
            "model_params": model_params,
            "budget_params": self.budget_params,
            "fits": None if self.budget_params is None else True,
            "k": self.k,
            "k_fill": self.k_fill,
            "seed_rule_k": self.seed_rule_k,
            "engram_vocab_size": config.engram_vocab_size,
            "engram_table_size": config.engram_table_size,
            "rows_per_head": config.rows_per_head,
            "row_width": config.row_width,
            "layers": [layer.to_dict() for layer in counts.layers],
            "table_params": counts.table_params,
            "dense_params": counts.dense_params,
            "total_params": counts.total_params,
            "slack_params": self.slack_params,
            "share_of_whole": None if model_params is None else counts.total_params / whole,
            "table_dtype": dtype.name,
            "table_dtype_from": dtype.origin,
            "table_bytes": total_of(parts, "table")[1],
            "total_bytes": memory_bytes,
            "corpus": None if self.corpus is None else asdict(self.corpus),
        }
