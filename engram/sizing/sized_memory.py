"""`Sizing`: a memory whose tables are sized, and how full a text makes them."""

from dataclasses import asdict, dataclass
from typing import Any

from engram.backbone import Backbone
from engram.config.engram_config import EngramConfig
from engram.sizing.advice import Advice
from engram.sizing.budget import k_of
from engram.sizing.counts import MemoryCount
from engram.sizing.plan import Alternative, Plan, Trial
from engram.sizing.run_options import PLACES
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
    orders: tuple[OrderLoad, ...]


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
        alternatives: The largest memories with another place, dtype or optimiser.
        seed_rule_k: k by the formula of engram_torch_unofficial; None without a budget.
        backbone: The base model, if one is known.
        corpus: Load of the tables by a text, where one was given.
        advice: Facts about memories of this size.
        notes: Sentences about what was assumed.
    """

    config: EngramConfig
    counts: MemoryCount
    k: int | float | None
    trial: Trial
    budget_params: int | None = None
    plan: Plan | None = None
    alternatives: tuple[Alternative, ...] = ()
    seed_rule_k: int | None = None
    backbone: Backbone | None = None
    corpus: CorpusFill | None = None
    advice: Advice | None = None
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
        return self.trial.fits

    @property
    def slack_params(self) -> int | None:
        """Parameters of the budget that are left over."""
        return None if self.budget_params is None else self.budget_params - self.counts.total_params

    def __repr__(self) -> str:
        rows = ", ".join(f"{rows:,}" for rows in self.config.engram_table_size)
        return f"<Sizing: {self.counts.total_params:,} parameters, rows per order {rows}>"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram size --json`` prints.

        In ``plan.places``, gpu is one device; cpu and disk are those of all ranks together.
        """
        config, counts, backbone = self.config, self.counts, self.backbone
        model_params = None if backbone is None else backbone.params
        whole = counts.total_params + (model_params or 0)
        dtype, parts = weigh(counts, backbone)
        return {
            "schema": SCHEMA,
            "model": None if backbone is None else backbone.name,
            "layout": config.layout,
            "model_params": model_params,
            "budget_params": self.budget_params,
            "fits": self.fits,
            "k": self.k,
            "k_fill": self.k_fill,
            "k_used": k_of(config),
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
            "total_bytes": total_of(parts)[1],
            "plan": self._plan(),
            "corpus": None if self.corpus is None else asdict(self.corpus),
            "advice": None if self.advice is None else asdict(self.advice),
        }

    def _plan(self) -> dict[str, Any]:
        use, plan = self.trial.use, self.plan
        places = {place: use.resources[place] for place in PLACES}
        reads = use.resources.get("iops")
        return {
            "tables": use.tables,
            "places": {
                place: {"capacity_bytes": it.capacity, "used_bytes": it.used}
                for place, it in places.items()
            },
            "disk_reads": None
            if reads is None
            else {"capacity_per_second": reads.capacity, "used_per_second": reads.used},
            "parts": [
                {
                    "part": row.part,
                    "bytes": row.size_bytes,
                    "kind": row.kind,
                    "place": row.place,
                }
                for row in use.rows
            ],
            "fits": use.fits,
            "binding": [] if plan is None else list(plan.binding),
            "doubling_misses": {}
            if plan is None
            else {name: it.missing for name, it in plan.doubling.items()},
            "alternatives": [asdict(alternative) for alternative in self.alternatives],
            "assumptions": list(use.assumptions),
        }
