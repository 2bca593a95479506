"""`EngramConfig`: the settings of a memory, checked together; YAML and JSON have the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, fields
from typing import Any

from engram.config.config_rules import resolve
from engram.config.table_dtype import ASSUMED, Origin, TableDtype
from engram.errors import ConfigError, Problem
from engram.layouts import LAYOUT_NAMES, Layout, get_layout
from engram.storage.dtypes import dtype_name, row_bytes
from engram.units import format_bytes

SCHEMA = 1

# The largest published tables have 384M rows a layer and 189 GiB in all.
MANY_ROWS = 10**12
MANY_BYTES = 100 * 2**40
# A text that contains every token once has as many distinct n-grams as tokens. With that many per
# row, only one row in ten million stays free.
FEW_ROWS = 16


def _doc(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"doc": text})


@dataclass(frozen=True, kw_only=True)
class EngramConfig:
    """A memory: its addresses, its tables and the module that gates it into the backbone.

    All problems of a config are reported at once. Fields left at None take the layout's default.
    Give the table size either as `engram_table_size` or as `k`.

    Raises:
        ConfigError: Keys are missing, of the wrong type, impossible, or contradict the layout.
    """

    layout: str = _doc(f"Published family whose rules apply: {LAYOUT_NAMES}.", "demo")
    tokenizer: str | None = _doc(
        "Tokenizer: folder or tokenizer.json (relative to this file), hub id or package:NAME."
    )
    hidden_size: int = _doc("Width D of the backbone's hidden states.")
    engram_vocab_size: int = _doc("Number of token ids that are hashed: the tokenizer's length.")
    engram_table_size: list[int] = _doc("Rows per n-gram ORDER (2, 3, ...), summed over its heads.")
    max_ngram_size: int = _doc("Highest n-gram order N; the orders are 2..N.")
    n_embed_per_ngram: int = _doc(
        "Memory width per order; a row's width is this / n_head_per_ngram.", 512
    )
    n_head_per_ngram: int = _doc("Hash heads H per order.", 8)
    layer_ids: list[int] = field(
        default_factory=list,
        metadata={"doc": "Layers (0-based) that read the memory; the order is part of the hash."},
    )
    hc_mult: int = _doc("Residual streams M of the backbone: 1, or its hyper-connection count.", 1)
    kernel_size: int = _doc(
        "Taps K of the causal convolution, max_ngram_size apart; 0 for none (deepseek_v41)."
    )
    pad_id: int | str | None = _doc(
        "Token read before the start of a text: id, token, or null for the tokenizer's."
    )
    eos_id: int | None = _doc(
        "Token that ends a text (qwen_ple: look-back stops at it and reads it)."
    )
    ends_after_eos: bool = _doc(
        "Documents end with eos_id: what follows it never looks back past it (qwen_ple: always)."
    )
    seed: int = _doc("Seed of the hash multipliers.")
    eps: float | None = _doc("Epsilon of the norms in the gate; null for the machine epsilon.")
    row_multiple: int = _doc("Stored rows of a layer's table are rounded up to a multiple of this.")
    table_dtype: str | None = _doc(
        "Stored table values: float32, bfloat16, float16, float64, fp8 or int8; null for the "
        "base's own."
    )
    use_offload: bool = _doc(
        "Keep the table in host memory while the rest of the module is on a GPU.", False
    )
    offload_cache_lines: int = _doc(
        "Rows of an offloaded table that are cached beside the module; 0 for none.", 0
    )
    k: InitVar[float | None] = None

    def __post_init__(self, k: float | None) -> None:
        # The fields are not frozen before this is done.
        if problems := resolve(vars(self), k):
            raise ConfigError(problems)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngramConfig:
        """Build a config from plain keys, as in JSON or YAML.

        Raises:
            ConfigError: Unknown keys, a wrong schema, or any problem that the constructor finds.
        """
        values = dict(values)
        schema = values.pop("schema", SCHEMA)
        known = {key: values.pop(key) for key in CONFIG_KEYS if key in values}
        problems = list(map(_unknown_key, values))
        if schema != SCHEMA:
            problems.append(
                Problem("schema", f"unknown schema {schema!r}; this version reads {SCHEMA}")
            )
        try:
            config = cls(**known)
        except ConfigError as error:
            raise ConfigError(problems + error.problems) from None
        if problems:
            raise ConfigError(problems)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return every key with its value, `schema` first, in the form that `from_dict` reads."""
        return {"schema": SCHEMA, **{item.name: getattr(self, item.name) for item in fields(self)}}

    def stored_dtype(self, base_dtype: str | None = None, asked: str | None = None) -> TableDtype:
        """Choose the dtype of the tables: the caller's choice, else the config's, else the base's.

        Args:
            base_dtype: Float dtype of the base's values; None if the base is unknown.
            asked: A dtype that overrides all others, such as the value of ``--dtype``.

        Raises:
            InputError: `asked` is not a dtype of tables.
        """
        choices: tuple[tuple[str | None, Origin], ...] = (
            (None if asked is None else dtype_name(asked), "asked"),
            (self.table_dtype, "config"),
            (base_dtype, "base"),
            (ASSUMED, "assumed"),
        )
        return next(TableDtype(name, origin) for name, origin in choices if name is not None)

    @property
    def doubts(self) -> list[str]:
        """A warning where the tables' size is valid but probably not meant; else nothing."""
        rows, fewest = sum(self.engram_table_size), min(self.rows_per_head)
        bytes_per_row = row_bytes(self.row_width, self.stored_dtype().name)
        size_bytes, vocab_size = rows * bytes_per_row * len(self.layer_ids), self.engram_vocab_size
        known = "the largest published ones have 384M rows a layer and 189 GiB in all"
        if rows > MANY_ROWS:
            return [f"engram_table_size makes {rows:,} rows a layer; {known}."]
        if size_bytes > MANY_BYTES:
            return [f"engram_table_size makes tables of {format_bytes(size_bytes)}; {known}."]
        if fewest * FEW_ROWS < vocab_size:
            return [
                f"engram_table_size makes {fewest:,} rows per HEAD for {vocab_size:,} token ids: "
                "any text fills such a table, and unrelated n-grams share every row. In the "
                "template gpt2, a head has a quarter as many rows as the vocabulary has ids."
            ]
        return []

    @property
    def rules(self) -> Layout:
        """The rules of its layout."""
        return get_layout(self.layout)

    @property
    def orders(self) -> tuple[int, ...]:
        """The n-gram orders 2..N."""
        return tuple(range(2, self.max_ngram_size + 1))

    @property
    def n_columns(self) -> int:
        """Table rows C that one token reads in one layer: orders x heads."""
        return len(self.orders) * self.n_head_per_ngram

    @property
    def rows_per_head(self) -> list[int]:
        """Nominal rows of one head's table, per order: the search for its prime starts there."""
        return [size // self.n_head_per_ngram for size in self.engram_table_size]

    @property
    def row_width(self) -> int:
        """Width of one table row."""
        return self.n_embed_per_ngram // self.n_head_per_ngram

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes in the shapes of tensors, by letter; see `engram.layouts.tensors`."""
        return {
            "D": self.hidden_size,
            "M": self.hc_mult,
            "K": self.kernel_size,
            "E": self.memory_width,
            "W": self.row_width,
            "C": self.n_columns,
            "N": self.max_ngram_size,
        }

    @property
    def memory_width(self) -> int:
        """Width E of the memory that a token reads in one layer: orders x n_embed_per_ngram."""
        return len(self.orders) * self.n_embed_per_ngram


CONFIG_KEYS: dict[str, str] = {
    **{item.name: str(item.metadata["doc"]) for item in fields(EngramConfig)},
    "k": "Instead of engram_table_size: rows per order as a multiple of engram_vocab_size.",
}


def _unknown_key(key: str) -> Problem:
    from difflib import get_close_matches

    near = get_close_matches(str(key), CONFIG_KEYS, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; the keys are {', '.join(CONFIG_KEYS)}"
    return Problem(str(key), f"unknown key{hint}")
