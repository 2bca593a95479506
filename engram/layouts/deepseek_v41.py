"""The layout of DeepSeek-V4.1-Flash: orders 2..4, one fused projection, no convolution."""

from dataclasses import replace

from engram.layouts.base import Layout
from engram.layouts.dialect import Dialect
from engram.layouts.settings import MOST_HEADS, MOST_ORDERS, Setting
from engram.layouts.tensors import Tensor
from engram.tensor_names import TABLE

# DeepSeek's config.json, with the names of inference/config.json and of transformers' pull request.
RELEASED = Dialect(
    name="DeepSeek",
    place="layers.{layer}.engram.",
    names={
        TABLE: "embed.weight",
        "wkv.weight": "wkv.weight",
        "q_weight": "q_weight",
        "k_weight": "k_weight",
    },
    model_type="deepseek_v41_text",
    settings=(
        Setting("hidden_size", ("hidden_size", "dim")),
        Setting("hc_mult", ("hc_mult",), needed=False),
        Setting("eps", ("rms_norm_eps", "norm_eps"), kind="any"),
        Setting("engram_vocab_size", ("vocab_size",), low=2),
        Setting("layer_ids", ("engram_layer_ids",), kind="wholes"),
        Setting("stored_rows", ("engram_num_embeddings",), read=False),
        Setting("max_ngram_size", ("engram_max_ngram_size",), low=2, high=MOST_ORDERS),
        Setting("rows_per_head", ("engram_vocab_size",), low=2),
        Setting("n_head_per_ngram", ("engram_n_heads",), high=MOST_HEADS),
        Setting("row_width", ("engram_head_dim",)),
        Setting("pad_id", ("engram_pad_token_id", "engram_pad_id"), low=0, default=2),
        Setting("seed", ("engram_seed",), low=0, needed=False, written=False),
        Setting("compressed_vocab_size", ("engram_compressed_vocab_size",), read=False),
    ),
    block_keys={TABLE: "engram_block_size", "wkv.weight": "weight_block_size"},
)
VLLM = replace(
    RELEASED,
    name="vLLM",
    names={**RELEASED.names, TABLE: "embed_tokens.weight"},
    scale="weight_scale_inv",
)

# Tensors: released inference/engram.py.
DEEPSEEK_V41 = Layout(
    name="deepseek_v41",
    title="DeepSeek-V4.1-Flash",
    source="deepseek-ai/DeepSeek-V4.1-Flash config.json and inference/engram.py",
    hashes="compressed",
    multiplier_draw="pcg64",
    multiplier_key="layer_id",
    prime_order="given",
    fill="pad",
    ends_after_eos=False,
    masked="dead",
    residual_included=True,
    seed=0,
    seed_is_fixed=True,
    eps=1e-20,
    kernel_size=0,
    max_ngram_size=4,
    equal_tables=True,
    tensors=(
        Tensor("wkv.weight", "M*D+D, E", block=(32, 32)),
        Tensor("k_weight", "M, D"),
        Tensor("q_weight", "M, D"),
    ),
    table_block=(1, 32),
    dialects=(RELEASED, VLLM),
    model_types=("deepseek_v41", "deepseek_v4.1"),
    known_maps={
        (129280, 99092): "c60a86322ec17b4142bfef3c57a8d81fb428550cdf487f88a4320cb59fe46481"
    },
    apart="V4.1's module has no convolution, no biases and no norm before a convolution, and reads "
    "compressed ids",
)
