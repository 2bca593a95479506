"""The layout of Qwen3.8-Flash-Next's per-layer n-gram embedding (transformers: ``qwen4_exp``)."""

from dataclasses import replace

from engram.layouts.base import Layout
from engram.layouts.dialect import Dialect
from engram.layouts.settings import MOST_HEADS, MOST_ORDERS, MOST_SHARDS, Setting
from engram.layouts.tensors import Tensor
from engram.tensor_names import TABLE

RELEASED = Dialect(
    name="transformers",
    root="model.language_model.",
    place="layers.{layer}.ple.",
    names={
        TABLE: "ple_embedding.ngram_embedding.shard_{shard}.weight",
        "factors": "ple_embedding.layer_multipliers",
        "sizes": "ple_embedding.ngram_heads_vocab_sizes",
        "offsets": "ple_embedding.ngram_heads_offsets",
        "value_proj.weight": "value_proj.weight",
        "key_proj.weight": "key_proj.weight",
        "norm_key.weight": "norm_key.weight",
        "norm_query.weight": "norm_query.weight",
        "norm_conv.weight": "norm_conv.weight",
        "conv1d.weight": "conv1d.weight",
    },
    scale="weight_scale",
    model_type="qwen4_exp_text",
    settings=(
        Setting("hidden_size", ("hidden_size",)),
        Setting("hc_mult", ("hc_count",), needed=False),
        Setting("eps", ("rms_norm_eps",), kind="any"),
        Setting("engram_vocab_size", ("vocab_size",), low=2),
        Setting("eos_id", ("eos_token_id",), kind="first"),
        Setting("layer_ids", ("ple_layer_ids",), kind="wholes", counted_from=1),
        Setting("memory_width", ("ple_embed_dim",), default="hidden_size"),
        Setting("kernel_size", ("ple_conv_kernel_size",), needed=False),
        Setting("max_ngram_size", ("ngram_size",), low=2, high=MOST_ORDERS),
        Setting("n_head_per_ngram", ("heads_per_ngram",), high=MOST_HEADS),
        Setting("rows_per_head", ("ngram_vocab_size_base",), low=2),
        Setting("row_multiple", ("make_ngram_vocab_size_divisible_by",), needed=False),
        Setting("shards", ("split_ngram_parts",), high=MOST_SHARDS, default=1),
        Setting("seed", ("seed",), low=0, needed=False),
    ),
)
_EMBEDDING = "ple_embedding.ngram_embedding."
JOINED = replace(
    RELEASED,
    name="transformers, in memory",
    names={**RELEASED.names, TABLE: _EMBEDDING + "weight"},
)
MLX = replace(
    RELEASED,
    name="MLX",
    root="language_model.model.",
    names={**RELEASED.names, TABLE: _EMBEDDING + "shards.{shard}.weight"},
    scale="scales",
    shapes={"conv1d.weight": "M*D, K, 1"},
)
# exllamav3/modules/ngram_embedding.py: one tensor or shards; the constants lie beside them.
EXL3 = replace(
    RELEASED,
    name="EXL3",
    names={
        **RELEASED.names,
        TABLE: _EMBEDDING + "shard_{shard}.trellis",
        "factors": _EMBEDDING + "layer_multipliers",
        "sizes": _EMBEDDING + "head_vocab_sizes",
        "offsets": _EMBEDDING + "head_offsets",
    },
)
EXL3_JOINED = replace(
    EXL3, name="EXL3, in one tensor", names={**EXL3.names, TABLE: _EMBEDDING + "trellis"}
)

QWEN_PLE = Layout(
    name="qwen_ple",
    title="Qwen3.8-Flash-Next (per-layer embedding)",
    source="transformers 5.23.0 models/qwen4_exp and conversion_mapping.py",
    hashes="raw",
    multiplier_draw="splitmix64",
    multiplier_key="index",
    prime_order="sorted",
    fill="eos",
    ends_after_eos=True,
    masked="dead",
    residual_included=False,
    seed=1234,
    eps=1e-6,
    row_multiple=128,
    kernel_size=4,
    equal_tables=True,
    tensors=(
        Tensor("value_proj.weight", "D, E"),
        Tensor("key_proj.weight", "M*D, E"),
        Tensor("norm_key.weight", "M*D"),
        Tensor("norm_query.weight", "M*D"),
        Tensor("norm_conv.weight", "M*D"),
        Tensor("conv1d.weight", "M*D, 1, K"),
    ),
    dialects=(RELEASED, JOINED, MLX, EXL3, EXL3_JOINED),
    apart="Qwen's memory reads raw ids with multipliers of its own, so that every row would be "
    "another n-gram's",
)
