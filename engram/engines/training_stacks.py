"""Fields that training and serving stacks have for a memory, as data: a row a stack and layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import contains, eq
from typing import Any, Literal

from engram.layouts import DEEPSEEK_V41, QWEN_PLE
from engram.layouts.settings import Setting
from engram.storage.dtypes import FLOATS


@dataclass(frozen=True, kw_only=True)
class Form:
    """Fields of a stack for memories of one layout.

    Attributes:
        settings: The fields, by what they mean; see `engram.layouts.settings.Setting`.
        fixed: Fields that every memory of the layout has alike.
        built_in: Keys of our config that the stack has no field for, or not for every value: what
            tells the values that it has without one, and why others are lost.
        differs: What is otherwise in the stack, whatever the config, by what it concerns.
        needs: What the stack wants besides; names of fields and of keys stand in braces.
    """

    settings: tuple[Setting, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    built_in: Mapping[str, tuple[Callable[[Any], bool], str]] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack that trains or serves models with a memory.

    Attributes:
        title: Its name for people.
        place: Where its fields go.
        style: How they are written there.
        source: Public files that the fields were read from.
        status: Whether they are in a release.
        forms: Its fields by layout.
        refused: Why other layouts have none.
    """

    title: str
    place: str
    style: Literal["flags", "yaml", "json"] = "json"
    source: str
    status: str
    forms: Mapping[str, Form]
    refused: Mapping[str, str]


def _is(*values: Any) -> Callable[[Any], bool]:
    return partial(contains, values)


def _is_sorted(layer_ids: list[int]) -> bool:
    return layer_ids == sorted(layer_ids)


def _is_one(layer_ids: list[int]) -> bool:
    return len(layer_ids) == 1


_EPS = "the stack has no field for the norms of the memory alone"
_DTYPE = "the stack has no field for the dtype of tables: they have the model's"
_ENDS = "the stack hashes across ends of text in this layout"
_ROWS = "the stack stores a table for each head, of the prime itself: no rows are added"
_SUM = "the stack's tables have as many rows as the primes sum to"
_SORTED = "the stack takes them in ascending order alone, and the order is part of the hash"
_RELEASE = "the stack has the release's multipliers and primes built in"

_V41 = Form(
    settings=tuple(one for one in DEEPSEEK_V41.released.settings if one.written),
    fixed={"model_type": DEEPSEEK_V41.released.model_type},
    built_in={"row_multiple": (_is(1), _SUM), "ends_after_eos": (_is(False), _ENDS)},
    needs=("a tokenizer that compresses to {engram_compressed_vocab_size} ids",),
)
_QWEN = Form(
    settings=tuple(one for one in QWEN_PLE.released.settings if one.written),
    fixed={"model_type": QWEN_PLE.released.model_type},
    built_in={"hc_mult": (lambda streams: streams > 1, "the stack demands hc_count above 1")},
    needs=("linear attention in the layers that read the memory",),
)

TRANSFORMERS = Stack(
    title="transformers",
    place="config.json, or its text_config",
    source="transformers 5.23.0 models/qwen4_exp/configuration_qwen4_exp.py",
    status="in the release 5.23.0",
    forms={
        "qwen_ple": replace(
            _QWEN, built_in={**_QWEN.built_in, "table_dtype": (_is(None, *FLOATS.values()), _DTYPE)}
        )
    },
    refused={
        "deepseek_v41": "transformers 5.23.0 has no deepseek_v41 (pull request 48721 is closed)",
        "demo": "transformers has no model with the module of DeepSeek's demo",
    },
)
VLLM = Stack(
    title="vLLM",
    place="config.json, or its text_config, beside the checkpoint",
    source="vllm-project/vllm vllm/config/engram.py and docs/features/engram.md",
    status="on the main branch; --engram-config says where tables lie, not what they are",
    forms={
        "deepseek_v41": replace(
            _V41,
            built_in={
                **_V41.built_in,
                "table_dtype": (_is("fp8"), "its kernels read fp8 rows with e8m0 scales"),
            },
        ),
        "qwen_ple": _QWEN,
    },
    refused={"demo": "vLLM has no model with the module of DeepSeek's demo"},
)
NEMO = Stack(
    title="NeMo AutoModel",
    place="config.json, or its text_config",
    source="NVIDIA-NeMo/Automodel nemo_automodel/components/models: deepseek_v41/config.py, "
    "deepseek_v41/engram.py, qwen3_8_flash_next/config.py, qwen3_8_flash_next/engram.py",
    status="on the main branch",
    forms={
        "deepseek_v41": replace(
            _V41,
            built_in={**_V41.built_in, "layer_ids": (_is_sorted, _SORTED)},
            differs={
                "documents": "a position id that does not increase starts a segment, and look-back "
                "stops there; the release looks back across documents"
            },
        ),
        "qwen_ple": replace(
            _QWEN,
            settings=tuple(one for one in _QWEN.settings if one.ours != "seed"),
            fixed={"model_type": "qwen3_8_flash_next_text"},
            built_in={
                **_QWEN.built_in,
                "layer_ids": (_is_one, _RELEASE),
                "seed": (_is(1234), _RELEASE),
                "engram_vocab_size": (_is(248320), _RELEASE),
                "max_ngram_size": (_is(3), _RELEASE),
                "n_head_per_ngram": (_is(8), _RELEASE),
                "engram_table_size": (partial(eq, [160_000_000] * 2), _RELEASE),
            },
        ),
    },
    refused={"demo": "NeMo AutoModel has no model with the module of DeepSeek's demo"},
)
MAXTEXT = Stack(
    title="MaxText",
    place="the YAML config, or KEY=VALUE on its command line",
    style="yaml",
    source="AI-Hypercomputer/maxtext src/maxtext/configs/base.yml, types.py and layers/engram.py",
    status="on the main branch, in the decoder block deepseek",
    forms={
        "demo": Form(
            settings=(
                Setting("layer_ids", ("engram_layers",), kind="wholes"),
                Setting("max_ngram_size", ("engram_max_ngram_size",)),
                Setting("n_head_per_ngram", ("engram_num_heads",)),
                Setting("row_width", ("engram_head_dim",)),
                Setting("rows_of_heads", ("engram_vocab_bases",), kind="wholes"),
                Setting("kernel_size", ("engram_kernel_size",)),
                Setting("seed", ("engram_seed",), low=0),
                Setting("hc_mult", ("mhc_expansion_rate",)),
                Setting("tokenizer", ("tokenizer_path",), kind="any"),
            ),
            fixed={"tokenizer_type": "huggingface"},
            built_in={
                "pad_id": (_is(None), "the pad of the tokenizer is read instead"),
                "eps": (_is(None), "the norms have normalization_layer_epsilon"),
                "row_multiple": (_is(1), _SUM),
                "table_dtype": (_is(None), "tables have weight_dtype"),
                "ends_after_eos": (_is(False), _ENDS),
            },
            differs={
                "multipliers": "they are drawn and multiplied as 32-bit integers: the same text "
                "reads other rows than in DeepSeek's demo and here, and tables cannot be moved "
                "between the two",
            },
            needs=("hf_access_token",),
        )
    },
    refused={
        "deepseek_v41": "its module has biases, a convolution and 32-bit multipliers",
        "qwen_ple": "its module hashes compressed ids with 32-bit multipliers",
    },
)
_MEGATRON_SHARED = (
    Setting("rows_of_heads", ("--engram-vocab-sizes",), kind="wholes"),
    Setting("max_ngram_size", ("--engram-max-ngram-order",)),
    Setting("n_head_per_ngram", ("--engram-num-hash-heads",)),
    Setting("n_embed_per_ngram", ("--engram-memory-dim",)),
)
_MEGATRON_KERNEL = Setting("kernel_size", ("--engram-kernel-size",))
_MEGATRON_HYBRID = Setting("hybrid_layers", ("--engram-layer-ids",), kind="wholes")
_MEGATRON_BUILT_IN = {
    "eps": (_is(None), _EPS),
    "row_multiple": (_is(1), _ROWS),
    "table_dtype": (_is(None, "bfloat16"), "its tables are bfloat16"),
}
_MEGATRON_STREAMS = "{hc_mult} residual streams, which are settings of the backbone"
_MEGATRON_PATTERN = (
    "a hybrid stack of two layers a block, first attention of any kind, then experts or an MLP "
    "(--hybrid-layer-pattern {example}...): --engram-layer-ids {--engram-layer-ids} counts its "
    "layers from 1, for the blocks {layer_ids} counted from 0; another pattern needs other numbers"
)
MEGATRON = Stack(
    title="Megatron-LM",
    place="its command line",
    style="flags",
    source="NVIDIA/Megatron-LM pull request 7231: docs/models/engram.md, "
    "megatron/core/models/engram/config.py and tools/engram/generate_tokenizer_map.py; layers of a "
    "hybrid stack: docs/models/qwen3.8_flash_next/architecture/config_mapping.md; V4.1: commit "
    "f6194a5, megatron/core/models/engram/config.py and layer_specs.py and "
    "tests/unit_tests/models/test_engram.py",
    status="in open pull requests, in no release",
    forms={
        "demo": Form(
            settings=(
                Setting("layer_ids", ("--engram-layer-ids",), kind="wholes", counted_from=1),
                *_MEGATRON_SHARED,
                _MEGATRON_KERNEL,
                # The hash takes the ids that count from 1: a seed that is less by what one layer
                # adds gives the multipliers of DeepSeek's demo.
                Setting("seed_from_one", ("--engram-hash-seed",)),
                Setting("pad_id", ("--engram-pad-token-id",), low=0),
            ),
            fixed={"--engram-variant": "deepseek"},
            built_in={**_MEGATRON_BUILT_IN, "ends_after_eos": (_is(False), _ENDS)},
            needs=(
                "--engram-tokenizer-map FILE, of tools/engram/generate_tokenizer_map.py --tokenizer"
                " {tokenizer} --layer-ids {--engram-layer-ids} --max-ngram-order "
                "{--engram-max-ngram-order} --hash-seed={--engram-hash-seed} --pad-token-id "
                "{--engram-pad-token-id} --output FILE",
                "a stack whose layers are blocks, as in pretrain_gpt.py: those of a hybrid stack "
                "are counted otherwise, and their numbers enter this hash",
                _MEGATRON_STREAMS,
            ),
        ),
        "qwen_ple": Form(
            settings=(
                _MEGATRON_HYBRID,
                *_MEGATRON_SHARED,
                _MEGATRON_KERNEL,
                Setting("seed", ("--engram-hash-seed",), low=0),
                Setting("eos_id", ("--engram-eos-token-id",), low=0),
                Setting("engram_vocab_size", ("--engram-unigram-vocab-size",)),
            ),
            fixed={"--engram-variant": "qwen"},
            built_in=_MEGATRON_BUILT_IN,
            needs=(
                _MEGATRON_PATTERN.replace("{example}", "GEGEGEQE"),
                _MEGATRON_STREAMS,
                "a padded vocabulary of at most {--engram-unigram-vocab-size} ids",
            ),
        ),
        "deepseek_v41": Form(
            settings=(
                _MEGATRON_HYBRID,
                Setting("layer_ids", ("--engram-hash-layer-ids",), kind="wholes"),
                *_MEGATRON_SHARED,
                Setting("seed", ("--engram-hash-seed",), low=0),
                Setting("pad_id", ("--engram-pad-token-id",), low=0),
            ),
            fixed={"--engram-variant": "deepseek_v41"},
            built_in={**_MEGATRON_BUILT_IN, "ends_after_eos": (_is(False), _ENDS)},
            needs=(
                "--engram-tokenizer-map FILE, of that commit's "
                "tools/engram/generate_tokenizer_map.py for {tokenizer}: it has to state the "
                "layers {--engram-layer-ids}, the hash layers {--engram-hash-layer-ids}, the order "
                "{--engram-max-ngram-order}, the seed {--engram-hash-seed} and the pad "
                "{--engram-pad-token-id}",
                _MEGATRON_PATTERN.replace("{example}", "*-*-"),
                _MEGATRON_STREAMS,
            ),
        ),
    },
    refused={},
)
STACKS: Mapping[str, Stack] = {
    "megatron": MEGATRON,
    "nemo": NEMO,
    "maxtext": MAXTEXT,
    "transformers": TRANSFORMERS,
    "vllm": VLLM,
}
