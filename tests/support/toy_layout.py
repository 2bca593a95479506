"""A family that nobody published, as a file of data: what `docs/adding-a-layout.md` walks through.

Its names have everything that names may have: shards, a tensor for every stream, constants, layers
that are counted from 1, other names for the same, and a second dialect.
"""

from __future__ import annotations

from dataclasses import replace

from engram.layouts.base import Layout
from engram.layouts.dialect import Dialect
from engram.layouts.settings import MOST_HEADS, MOST_ORDERS, MOST_SHARDS, Setting
from engram.layouts.tensors import Tensor
from engram.tensor_names import TABLE

RELEASED = Dialect(
    name="its authors",
    root="net.",
    place="blocks.{layer}.recall.",
    names={
        "offsets": "starts",
        TABLE: "rows.{shard}.weight",
        "sizes": "heads",
        "factors": "hash",
        "value.weight": "to_value.weight",
        "gate": "gates.{stream}.weight",
    },
    model_type="toy_lm",
    settings=(
        Setting("hidden_size", ("width", "hidden_size")),
        Setting("hc_mult", ("streams",), needed=False),
        Setting("engram_vocab_size", ("vocab_size",), low=2),
        Setting("layer_ids", ("recall_blocks",), kind="wholes", counted_from=1),
        Setting("stored_rows", ("recall_rows",), read=False),
        Setting("max_ngram_size", ("recall_orders",), low=2, high=MOST_ORDERS),
        Setting("n_head_per_ngram", ("recall_heads",), high=MOST_HEADS),
        Setting("rows_per_head", ("recall_rows_per_head",), low=2),
        Setting("row_width", ("recall_row_width",)),
        Setting("row_multiple", ("recall_multiple",), needed=False),
        Setting("shards", ("recall_shards",), high=MOST_SHARDS, default=1),
        Setting("pad_id", ("pad_token_id",), low=0),
        Setting("seed", ("recall_seed",), low=0, needed=False),
        Setting("compressed_vocab_size", ("recall_vocabulary",), read=False),
    ),
)
SERVED = replace(
    RELEASED,
    name="a server",
    names={
        **RELEASED.names,
        TABLE: "memory.weight",
        "gate": "gate_{stream}.weight",
        "value.weight": "v.weight",
    },
)

TOY = Layout(
    name="toy",
    title="a toy",
    source="this file",
    hashes="compressed",
    multiplier_draw="splitmix64",
    multiplier_key="layer_id",
    prime_order="given",
    fill="pad",
    ends_after_eos=False,
    masked="dead",
    residual_included=False,
    seed=9,
    row_multiple=4,
    kernel_size=0,
    equal_tables=True,
    tensors=(Tensor("value.weight", "D, E"), Tensor("gate", "M, D")),
    dialects=(RELEASED, SERVED),
    apart="the toy's module has one gate a stream and nothing else",
)
