"""The dialects of GGUF in which engines store memories: keys, element types, names of tensors.

All of them store constants in one order: by layer as `layer_ids` lists them, then by n-gram order
from 2, then by head; multipliers by layer, then by how far they look back. Offsets count from the
start of each layer's own table.

Sources: converters and loaders of the engines, see `GgufDialect.source`.
"""

from __future__ import annotations

from collections.abc import Collection

from engram.errors import UsageError
from engram.layouts.gguf_dialect import Fact, GgufDialect, Kind
from engram.storage.row_encodings.fp8_rows import ROW264, TWO_TENSORS

_U32: tuple[Kind, ...] = ("uint32",)
_I32: tuple[Kind, ...] = ("int32",)
_U64: tuple[Kind, ...] = ("uint64",)
_I64: tuple[Kind, ...] = ("int64",)

# Facts that are lists, whatever the dialect.
_LISTS = ("layer_ids", "rows", "token_map", "primes", "offsets", "multipliers", "table_shards")


def _fact(name: str, place: str, kinds: tuple[Kind, ...]) -> Fact:
    return Fact(place, kinds, is_list=name in _LISTS)


def _integers(kinds: tuple[Kind, ...], **names: str) -> dict[str, Fact]:
    return {fact: _fact(fact, name, kinds) for fact, name in names.items()}


_VOCAB, _COLUMNS, _HEADS = ("vocab",), ("columns", "layers"), ("heads", "orders", "layers")
_LOOKS = ("looks", "layers")


def _tensor(name: str, kinds: tuple[Kind, ...], dims: tuple[str, ...]) -> Fact:
    return Fact(name, kinds, is_tensor=True, is_list=True, dims=dims)


_V41 = "deepseek_v41"
_DEEPSEEK = ("deepseek41",)
_QKV = {
    "q_weight": "blk.{layer}.engram_q.weight",
    "k_weight": "blk.{layer}.engram_k.weight",
    "wkv.weight": "blk.{layer}.engram_wkv.weight",
}
_TABLE = "blk.{layer}.engram_embd.weight"
_F32_NORMS = {"q_weight": "F32", "k_weight": "F32"}

_DS4_WEIGHTS = {
    "q_weight": "blk.{layer}.engram_q_norm.weight",
    "k_weight": "blk.{layer}.engram_k_norm.weight",
    "wkv.weight": "blk.{layer}.engram_kv.weight",
}
_DS4 = GgufDialect(
    name="gguf_ds4",
    optional=("encoding",),
    engines=("ds4",),
    row_encodings=(ROW264,),
    source="antirez/ds4 and its forks, ports of llama.cpp that read its files",
    layout=_V41,
    architectures=_DEEPSEEK,
    facts={
        **_integers(
            _U32,
            layer_ids="engram.layer_ids",
            rows="engram.rows",
            compressed_vocab_size="engram.compressed_vocab_size",
            pad_id="engram.pad_id",
            token_map="engram.token_map",
            primes="engram.primes",
        ),
        "multipliers": _fact("multipliers", "engram.multipliers", _U64),
        "encoding": _fact("encoding", "engram.encoding", ("string",)),
    },
    table=_TABLE,
    weights=_DS4_WEIGHTS,
    weight_types={**_F32_NORMS, "wkv.weight": "F16"},
    marks=("engram.encoding",),
    tensor_marks=tuple(_DS4_WEIGHTS.values()),
)
_LLAMA = GgufDialect(
    name="gguf_llama",
    engines=("llama.cpp", "ik"),
    source="llama.cpp PR 28696, ik_llama.cpp, and engines that read their files",
    layout=_V41,
    architectures=_DEEPSEEK,
    facts={
        **_integers(
            _U32,
            orders="engram.max_ngram_size",
            heads="engram.head_count",
            row_width="engram.key_length",
            pad_id="engram.pad_id",
        ),
        "layer_ids": _fact("layer_ids", "engram.layer_ids", ("int32", "uint32")),
        "token_map": _fact("token_map", "engram.token_map", ("int32", "uint32")),
        **_integers(
            _U64,
            primes="engram.primes",
            offsets="engram.offsets",
            multipliers="engram.multipliers",
        ),
    },
    table=_TABLE,
    weights=_QKV,
    weight_types=_F32_NORMS,
    # The last dialect of this layout: whatever has the keys or the table, and no other's marks.
    marks=("engram.layer_ids", "engram.max_ngram_size"),
    tensor_marks=(_TABLE, *_QKV.values()),
)
_MX = GgufDialect(
    name="gguf_mx",
    engines=("mx",),
    row_encodings=("MXFP4",),
    source="mxxm-t/llama.cpp, mx-llama.cpp, Strata tooling",
    layout=_V41,
    architectures=_DEEPSEEK,
    facts={
        **_integers(
            _U32,
            layer_ids="engram.layer_ids",
            orders="engram.max_ngram_size",
            heads="engram.n_heads",
            row_width="engram.head_dim",
            compressed_vocab_size="engram.compressed_vocab_size",
            pad_id="engram.pad_token_id",
        ),
        "token_map": _fact("token_map", "engram.token_map", ("uint32", "int32")),
        "rows": _fact("rows", "engram.num_embeddings", ("uint64", "uint32")),
        "primes": _fact("primes", "engram.primes", ("uint64", "uint32")),
        "offsets": _fact("offsets", "engram.offsets", ("uint64", "uint32")),
        "multipliers": _fact("multipliers", "engram.multipliers", ("uint64", "int64")),
    },
    pad_is_raw=True,
    table="blk.{layer}.engram_embed.weight",
    weights=_QKV,
    tensor_marks=("blk.{layer}.engram_embed.weight",),
)
_TARRUDA = GgufDialect(
    name="gguf_tarruda",
    engines=("tarruda",),
    source="tarruda/llama.cpp",
    layout=_V41,
    architectures=_DEEPSEEK,
    facts={
        **_integers(
            _U32,
            layer_ids="engram.layers",
            rows="engram.embedding_counts",
            orders="engram.ngram_size",
            heads="engram.head_count",
            row_width="engram.head_dim",
            compressed_vocab_size="engram.compressed_vocab_size",
            pad_id="engram.pad_token_id",
            token_map="engram.token_map",
            primes="engram.head_bucket_sizes",
            offsets="engram.head_offsets",
        ),
        "multipliers": _fact("multipliers", "engram.multipliers", _U64),
    },
    pad_is_raw=True,
    table=_TABLE,
    scales="blk.{layer}.engram_embd_scale.weight",
    weights={
        "q_weight": "blk.{layer}.engram_q_weight.weight",
        "k_weight": "blk.{layer}.engram_k_weight.weight",
        "wkv.weight": "blk.{layer}.engram_kv.weight",
    },
    weight_types=_F32_NORMS,
    marks=("engram.embedding_counts",),
    tensor_marks=("blk.{layer}.engram_q_weight.weight",),
)
_BUCKETS = GgufDialect(
    name="gguf_buckets",
    engines=("buckets",),
    source="a fork of llama.cpp; keys as its enum names suggest",
    layout=_V41,
    architectures=_DEEPSEEK,
    facts={
        **_integers(
            _U32,
            layer_ids="engram.layers",
            orders="engram.max_ngram_size",
            heads="engram.head_count",
            row_width="engram.head_dim",
            pad_id="engram.pad_token_id",
            compressed_vocab_size="engram.compressed_vocab_size",
            rows="engram.table_rows",
            token_map="engram.token_map",
        ),
        **_integers(
            _U64,
            multipliers="engram.hash_multipliers",
            offsets="engram.head_offsets",
            primes="engram.head_bucket_sizes",
        ),
    },
    pad_is_raw=True,
    table=_TABLE,
    weights=_QKV,
    marks=("engram.table_rows",),
)
_HASHKEYS = GgufDialect(
    name="gguf_hashkeys",
    optional=("fingerprint",),
    source="a fork of ds4, with the table in a GGUF beside it",
    layout=_V41,
    architectures=_DEEPSEEK,
    facts={
        **_integers(
            _U32,
            layer_ids="engram.layers",
            rows="engram.num_embeddings",
            orders="engram.max_ngram_size",
            heads="engram.head_count",
            row_width="engram.head_dim",
            compressed_vocab_size="engram.compressed_vocab_size",
            pad_id="engram.pad_token_id",
            token_map="engram.token_map",
            primes="engram.hash_primes",
        ),
        **_integers(_U64, offsets="engram.hash_offsets", multipliers="engram.hash_multipliers"),
        "fingerprint": _fact("fingerprint", "engram.hash_contract_sha256", ("string",)),
    },
    pad_is_raw=True,
    table=None,
    marks=("engram.hash_primes", "engram.hash_contract_sha256"),
)
_KMBANDY = GgufDialect(
    name="gguf_kmbandy",
    optional=("multipliers",),
    engines=("kmbandy",),
    source="kmbandy/llama.cpp, which derives primes and offsets from the sizes",
    layout=_V41,
    architectures=_DEEPSEEK,
    facts={
        **_integers(
            _U32,
            layer_ids="engram.layer_ids",
            orders="engram.max_ngram_size",
            heads="engram.head_count",
            row_width="engram.head_dim",
            compressed_vocab_size="engram.compressed_vocab_size",
            size_base="engram.vocab_size",
            pad_id="engram.pad_token_id",
            token_map="engram.token_map",
        ),
        "multipliers": _fact("multipliers", "engram.hash_multipliers", _U64),
    },
    pad_is_raw=True,
    table=_TABLE,
    weights=_QKV,
    marks=("engram.vocab_size", "engram.hash_multipliers"),
)
_JIG = GgufDialect(
    name="gguf_jig",
    optional=("size_base", "present"),
    engines=("jig",),
    row_encodings=(TWO_TENSORS,),
    source="JigSawPT/llama.cpp, with constants as tensors",
    layout=_V41,
    architectures=_DEEPSEEK,
    facts={
        **_integers(
            _I32,
            layer_ids="engram.layer_ids",
            rows="engram.num_embeddings",
            orders="engram_max_ngram_size",
            heads="engram_n_heads",
            row_width="engram_head_dim",
            compressed_vocab_size="engram_compressed_vocab_size",
            size_base="engram_vocab_size",
            pad_id="engram_pad_token_id",
        ),
        "present": _fact("present", "engram.present", ("bool",)),
        "token_map": _tensor("engram_token_map.weight", _I32, _VOCAB),
        "primes": _tensor("engram_primes.weight", _I64, _COLUMNS),
        "offsets": _tensor("engram_offsets.weight", _I64, _COLUMNS),
        "multipliers": _tensor("engram_multipliers.weight", _I64, _LOOKS),
    },
    pad_is_raw=True,
    table=_TABLE,
    scales="blk.{layer}.engram_embd_scale.weight",
    weights=_QKV,
    marks=("engram.present",),
    tensor_marks=("engram_token_map.weight", "engram_primes.weight"),
)
_YOUNGAI = GgufDialect(
    name="gguf_youngai",
    optional=("size_base",),
    source="a C engine and its port to Rust; tables stay in shards of safetensors",
    layout=_V41,
    architectures=("deepseek4",),
    facts={
        "layer_ids": _fact("layer_ids", "engram.layer_ids", ("int32", "uint32")),
        "rows": _fact("rows", "engram.num_embeddings", _U64),
        **_integers(
            _U32,
            orders="engram.max_ngram_size",
            heads="engram.head_count",
            row_width="engram.head_dim",
            compressed_vocab_size="engram.compressed_vocab_size",
            size_base="engram.vocab_size",
            pad_id="engram.pad_id_compressed",
        ),
        "token_map": _tensor("engram.token_map", _I32, _VOCAB),
        "primes": _tensor("engram.primes", _I64, _HEADS),
        "offsets": _tensor("engram.offsets", _I64, _COLUMNS),
        "multipliers": _tensor("engram.multipliers", _I64, _LOOKS),
    },
    table=None,
    weights=_QKV,
    marks=("engram.pad_id_compressed", "engram.0.table_path"),
    tensor_marks=("engram.token_map", "engram.primes"),
)
_DEEPSTRIX = GgufDialect(
    name="gguf_deepstrix",
    source="an engine that computes constants itself; tables stay in shards of safetensors",
    layout=_V41,
    architectures=("deepseek4",),
    facts={"table_shards": _fact("table_shards", "engram.table_shards", ("string",))},
    table=None,
    weights=_QKV,
    marks=("engram.table_shards",),
)
_PLE_TABLE = "per_layer_token_embd.weight"
_PLE_WEIGHTS = {
    "key_proj.weight": "blk.{layer}.ple_key.weight",
    "value_proj.weight": "blk.{layer}.ple_value.weight",
    "norm_key.weight": "blk.{layer}.ple_norm_key.weight",
    "norm_query.weight": "blk.{layer}.ple_norm_query.weight",
    "norm_conv.weight": "blk.{layer}.ple_norm_conv.weight",
    "conv1d.weight": "blk.{layer}.ple_conv1d.weight",
}
_QWEN = GgufDialect(
    name="gguf_qwen4exp",
    optional=("image_token_id",),
    engines=("llama.cpp",),
    source="llama.cpp PR 27742",
    layout="qwen_ple",
    architectures=("qwen4exp",),
    facts={
        "layer_ids": _fact("layer_ids", "ple.layers", ("uint32", "int32")),
        **_integers(
            _U32,
            orders="ple.ngram_size",
            heads="ple.heads_per_ngram",
            kernel_size="ple.conv_kernel",
            eos_token_id="ple.eos_token_id",
            image_token_id="ple.image_token_id",
            row_width="embedding_length_per_layer_input",
        ),
        **_integers(
            _U64,
            multipliers="ple.layer_multipliers",
            offsets="ple.head_offsets",
            primes="ple.head_vocab_sizes",
        ),
    },
    table=_PLE_TABLE,
    weights=_PLE_WEIGHTS,
    weight_types={
        part: "F32" for part in _PLE_WEIGHTS if part not in ("key_proj.weight", "value_proj.weight")
    },
    # The checkpoint's norms are centred at zero.
    shifts={f"norm_{name}.weight": 1.0 for name in ("key", "query", "conv")},
    marks=("ple.head_vocab_sizes", "ple.layer_multipliers"),
    tensor_marks=("blk.{layer}.ple_key.weight",),
)
_HEBRUS = GgufDialect(
    name="gguf_hebrus",
    optional=("hash_id", "seed"),
    source="a contract after ds4; rows lie in a file of their own",
    layout="qwen_ple",
    architectures=("qwen4exp",),
    facts={
        "layer_ids": _fact("layer_ids", "text.ple_layer_ids", ("uint32", "int32")),
        **_integers(
            _U64,
            multipliers="ple.layer_multipliers",
            primes="ple.head_primes",
            offsets="ple.head_offsets",
            rows="ple.rows",
        ),
        "hash_id": _fact("hash_id", "ple.hash_id", ("string",)),
        "seed": _fact("seed", "ple.hash_seed", _U32),
    },
    table=None,
    marks=("ple.head_primes", "ple.hash_id"),
)

# The first whose marks a file has is its dialect: those with marks of their own come before those
# that are known by what they share with others.
DIALECTS: tuple[GgufDialect, ...] = (
    _HASHKEYS,
    _YOUNGAI,
    _DEEPSTRIX,
    _JIG,
    _BUCKETS,
    _TARRUDA,
    _MX,
    _KMBANDY,
    _DS4,
    _LLAMA,
    _HEBRUS,
    _QWEN,
)
# Dialects that memories are converted to, by name.
WRITTEN_DIALECTS = {it.name: it for it in (_LLAMA, _DS4, _TARRUDA, _QWEN)}


def find_dialect(
    keys: Collection[str], tensors: Collection[str], architecture: str | None = None
) -> GgufDialect | None:
    """Find the dialect of a file with a memory; None where it has no memory of a known one.

    Args:
        keys: Its keys, with their prefix.
        tensors: Names of its tensors.
        architecture: Value of ``general.architecture``: with it a table alone tells the dialect,
            of a file that holds nothing else.
    """
    plain = {key.partition(".")[2] for key in keys}
    marked = (it for it in DIALECTS if it.is_marked(plain, tensors))
    tables = (it for it in DIALECTS if architecture in it.architectures and it.table in tensors)
    return next(marked, None) or next(tables, None)


def engine_names() -> list[str]:
    """Return the short names of all engines whose dialects are known."""
    return list(dict.fromkeys(name for dialect in DIALECTS for name in dialect.engines))


def dialects_of(engine: str) -> tuple[GgufDialect, ...]:
    """Return the dialects that an engine reads, one for each layout.

    Args:
        engine: Its short name.

    Raises:
        UsageError: It is unknown.
    """
    found = tuple(dialect for dialect in DIALECTS if engine in dialect.engines)
    if not found:
        raise UsageError(
            f"{engine!r} is an unknown engine.",
            f"One of {', '.join(engine_names())}.",
            value=engine,
        )
    return found
