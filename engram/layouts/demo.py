"""The layout of DeepSeek's reference demo and of the paper's Engram-27B and Engram-40B."""

from engram.layouts.base import Layout
from engram.layouts.dialect import Dialect
from engram.layouts.tensors import Tensor
from engram.tensor_names import TABLE

# A state dict without a config. The demo keeps one module per stream; ours stacks them.
RELEASED = Dialect(
    name="the demo",
    place="layers.{layer}.engram.",
    anywhere=True,
    own=False,
    names={
        "offsets": "multi_head_embedding.offsets",
        TABLE: "multi_head_embedding.embedding.weight",
        "value_proj.weight": "value_proj.weight",
        "value_proj.bias": "value_proj.bias",
        "conv.weight": "short_conv.conv.weight",
        "key_proj.weight": "key_projs.{stream}.weight",
        "key_proj.bias": "key_projs.{stream}.bias",
        "norm_key": "norm1.{stream}.weight",
        "norm_query": "norm2.{stream}.weight",
        "conv_norm": "short_conv.norms.{stream}.weight",
    },
)

# Tensors: arXiv 2601.07372, section 2.3.
DEMO = Layout(
    name="demo",
    title="reference demo; Engram-27B and Engram-40B of the paper",
    files_title="state dict of the reference demo",
    source="deepseek-ai/Engram engram_demo_v1.py; arXiv 2601.07372",
    hashes="compressed",
    multiplier_draw="pcg64",
    multiplier_key="layer_id",
    prime_order="given",
    fill="pad",
    ends_after_eos=False,
    masked="absent",
    residual_included=False,
    seed=42,
    kernel_size=4,
    tensors=(
        Tensor("value_proj.weight", "D, E"),
        Tensor("value_proj.bias", "D"),
        Tensor("key_proj.weight", "M*D, E"),
        Tensor("key_proj.bias", "M*D"),
        Tensor("norm_key", "M, D"),
        Tensor("norm_query", "M, D"),
        Tensor("conv_norm", "M, D"),
        Tensor("conv.weight", "M*D, 1, K"),
    ),
    dialects=(RELEASED,),
    mark="key_proj.weight",
    apart="the demo's module adds a convolution and biased projections to what it reads, from "
    "compressed ids",
)
