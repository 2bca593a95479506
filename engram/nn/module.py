"""`EngramModule`: the module of one layer, for every layout.

Shapes: B sequences, T tokens, M streams, D hidden size, C columns, L layers with a memory, E memory
width, W tokens of the convolution's window, P = M * D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from engram.addressing.primes import HeadPrimes, stored_rows
from engram.arguments import checked
from engram.config.engram_config import EngramConfig
from engram.config.init import Init
from engram.errors import LayoutError
from engram.layouts import Layout
from engram.nn.disk import DiskEmbedding
from engram.nn.embedding import MultiHeadEmbedding
from engram.nn.file_table import FileEmbedding
from engram.nn.frozen import FrozenTable
from engram.nn.functional import ConvPast
from engram.nn.inputs import as_mask, as_streams, ids_of_layer
from engram.nn.quantised import FORMATS
from engram.nn.quantised_tables import QuantisedEmbedding
from engram.nn.reference_names import load_published
from engram.nn.sharded import ShardedEmbedding


class GatedTokens(NamedTuple):
    """Tokens of the past from which a convolution's window is recomputed.

    Attributes:
        hash_ids: Their hash ids ``[B, <= W, C]`` or ``[B, <= W, L, C]``.
        gates: Their gates ``[B, <= W, M]``, see `ConvPast`.
    """

    hash_ids: Tensor
    gates: Tensor


class EngramModule(nn.Module):
    """The memory of one layer: looks up rows, gates them by the hidden state, convolves over time.

    ``EngramModule(config, primes)`` builds the variant of the config's layout; each variant is a
    subclass with a layout: ``class DemoModule(EngramModule, layout="demo")``.

    The module keeps no state of a sequence: decoding passes the convolution's window in and gets
    the next one back.

    Args:
        config: The memory.
        layer_vocab_sizes: Primes of the layer, ``[order][head]``: an entry of
            ``EngramTokenizer.vocab_distributions``, which also knows the layer's index in 4-D ids,
            or a plain list.
        init: Initialisation, see `reset_parameters`. The default is for models trained from
            scratch; the others leave a trained backbone unchanged until training continues.
        sparse: Whether the table's gradients are sparse, see `MultiHeadEmbedding`.
        table: A table on disk, to use instead of making one in memory. It cannot be trained, and
            neither can quantised ones (fp8, int8): see `FrozenTable.refuse_gradients`.
        device: Device to build the module on.
        dtype: dtype of all weights; the table has the config's `table_dtype` if that is set.

    Attributes:
        config: The memory.
        layout: The family's rules.
        layer_id: The layer (0-based), None when built from a plain list.
        slot: The layer's index on the L axis of 4-D ids, None when built from a plain list.
        multi_head_embedding: The table.
        on_read: Told of every call, without gradients, where it is set: the gates ``[B, T, M]``,
            zero at masked positions; the hidden states ``[B, T, M, D]``; and what is added to them.

    Raises:
        LayoutError: The layout has no module yet, or the primes do not match the config's orders
            and heads.
        MismatchError: The given table has another shape.
    """

    variants: ClassVar[dict[str, type[EngramModule]]] = {}
    on_read: Callable[[Tensor, Tensor, Tensor], object] | None = None

    def __init_subclass__(cls, *, layout: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if layout is not None:
            EngramModule.variants[layout] = cls

    @checked()
    def __new__(cls, config: EngramConfig | None = None, *args: Any, **kwargs: Any) -> EngramModule:
        """Make an instance of the config's variant, or of `cls` when copying (no config)."""
        if cls is EngramModule and config is not None:
            module = config.rules.module or config.layout
            if module not in cls.variants:
                raise LayoutError(
                    f"Layout {config.layout} has no module yet.",
                    f"Modules exist for {', '.join(cls.variants)}.",
                    layout=config.layout,
                )
            cls = cls.variants[module]
        return super().__new__(cls)

    @checked()
    def __init__(
        self,
        config: EngramConfig,
        layer_vocab_sizes: Sequence[Sequence[int]],
        *,
        init: Init = "paper",
        sparse: bool = False,
        table: FrozenTable | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = [len(primes) for primes in layer_vocab_sizes]
        if shape != [config.n_head_per_ngram] * len(config.orders):
            raise LayoutError(
                f"The primes are for {shape} heads per order; the config has {len(config.orders)} "
                f"orders of {config.n_head_per_ngram} heads.",
                "Take them from the vocab_distributions of a tokenizer made with this config.",
                heads=shape,
            )
        self.config = config
        self.layer_id: int | None = None
        self.slot: int | None = None
        if isinstance(layer_vocab_sizes, HeadPrimes):
            self.layer_id, self.slot = layer_vocab_sizes.layer_id, layer_vocab_sizes.slot
        rows = stored_rows(layer_vocab_sizes, config.row_multiple)
        if table is None and config.table_dtype in FORMATS:
            stored = str(config.table_dtype)
            if config.offload_cache_lines:
                raise LayoutError(
                    f"offload_cache_lines must be 0 for tables stored in {stored}.",
                    "Set offload_cache_lines to 0.",
                    offload_cache_lines=config.offload_cache_lines,
                )
            table = QuantisedEmbedding(
                rows, config.row_width, stored, offload=config.use_offload, device=device
            )
        self.multi_head_embedding = MultiHeadEmbedding(
            [prime for primes in layer_vocab_sizes for prime in primes],
            config.row_width,
            stored_rows=rows,
            sparse=sparse,
            offload=config.use_offload,
            cache_lines=config.offload_cache_lines,
            table=table,
            device=device,
            dtype=dtype if config.table_dtype is None else getattr(torch, config.table_dtype, None),
        )
        self._build({"device": device, "dtype": dtype})
        self.register_load_state_dict_pre_hook(load_published)
        if init == "zero-table":
            self.multi_head_embedding.zero()
        self._reset_dense(init)

    @property
    def layout(self) -> Layout:
        """The family's rules."""
        return self.config.rules

    @property
    def window_tokens(self) -> int:
        """Past tokens W that the convolution sees; 0 without a convolution."""
        return max(0, self.config.kernel_size - 1) * self.config.max_ngram_size

    @property
    def in_use(self) -> EngramModule:
        """This module; wrappers with several copies (PEFT's) forward this to the active one."""
        return self

    def reset_parameters(self, init: Init = "paper", *, table: bool = True) -> None:
        """Initialise every weight, and restore the constants.

        Args:
            init: ``paper``: the convolution is zero (arXiv 2601.07372), the rest as in the
                reference demo: table N(0, 1), projections torch's default, norms one. ``identity``:
                the value projection is zero as well. ``zero-table``: the table is zero, and the
                value projection orthogonal without a bias. With both of these the module adds
                exactly nothing until trained.
            table: Whether the table starts anew, too.
        """
        if table:
            self.multi_head_embedding.reset_parameters()
        if table and init == "zero-table":
            self.multi_head_embedding.zero()
        self._reset_dense(init)

    def forward(
        self,
        hidden_states: Tensor,
        hash_ids: Tensor,
        *,
        keep: Tensor | None = None,
        window: Tensor | GatedTokens | None = None,
        since: Tensor | None = None,
        residual: bool = False,
        return_past: bool = False,
    ) -> Any:
        """Read the memory, like the layout's reference module.

        Args:
            hidden_states: The layer's input ``[B, T, M, D]``, or ``[B, T, D]`` for one stream.
            hash_ids: Hash ids without offsets ``[B, T, C]``, or of all layers ``[B, T, L, C]``.
            keep: False at masked positions ``[B, T]``; they get nothing and contribute nothing.
            window: The `ConvPast.window` of the preceding tokens ``[B, <= W, P]``, or the tokens to
                recompute it from; None at the start of a text.
            since: Tokens since each token's document started ``[B, T]``, if rows hold several
                documents; None if each row is one document.
            residual: Whether to include the hidden states in every layout, see `add`.
            return_past: Whether to return the past that decoding has to keep, too.

        Returns:
            The memory's contribution, of the shape and dtype of `hidden_states`; with `residual`,
            and in layouts with ``residual_included``, the hidden states are included. With
            `return_past` a pair of that and a `ConvPast`, or None in layouts without a convolution.

        Raises:
            LayoutError: Shapes do not fit the config, ids are out of range, 4-D ids are given to a
                module without a layer index, or a frozen table is to be trained.
        """
        streams = as_streams(hidden_states, self.config.hc_mult, self.config.hidden_size)
        positions = streams.shape[:2]
        if keep is not None:
            keep = as_mask(keep, positions)
        if isinstance(window, tuple):  # a plain one after hooks of other libraries
            ids_before, gates = window
            before = self._look_up(ids_before, gates.shape[:2])
            window = self._conv_inputs(before, gates)
        memory = self._look_up(hash_ids, positions)
        read, gates, past = self._read(streams, memory, keep, window, since)
        if self.on_read is not None:
            added = read - streams if self.layout.residual_included else read
            self.on_read(gates.detach(), streams.detach(), added.detach())
        out = read.reshape(hidden_states.shape)
        if residual and not self.layout.residual_included:
            out = hidden_states + out
        return (out, past) if return_past else out

    def add(self, hidden_states: Tensor, hash_ids: Tensor, **options: Any) -> Any:
        """Return the hidden states with the memory added, in every layout.

        Args:
            hidden_states: See `forward`.
            hash_ids: See `forward`.
            **options: See `forward`.

        Returns:
            The sum; with `return_past` a pair, see `forward`.

        Raises:
            LayoutError: See `forward`.
        """
        # Calls the module, not its method: its hooks fetch weights that are offloaded or
        # sharded.
        return self(hidden_states, hash_ids, residual=True, **options)

    @property
    def frozen_table(self) -> FrozenTable | None:
        """The table, without wrappers, if it is frozen (on disk or quantised), else None."""
        inside = self.multi_head_embedding.embedding.modules()
        return next((module for module in inside if isinstance(module, FrozenTable)), None)

    def wanted_rows(self, hash_ids: Tensor) -> list[tuple[DiskEmbedding | FileEmbedding, Tensor]]:
        """Return the argument of `prefetch` that has this module's rows read ahead.

        Args:
            hash_ids: Hash ids of all layers without offsets ``[B, T, L, C]``.

        Returns:
            The table with its row ids; empty if the table is in memory, or processes share it, who
            know only when they ask each other which rows each is to read.
        """
        if type(self.multi_head_embedding.embedding) is nn.Embedding:
            return []
        inside = list(self.multi_head_embedding.embedding.modules())
        in_file = (it for it in inside if isinstance(it, DiskEmbedding | FileEmbedding))
        is_shared = any(isinstance(it, ShardedEmbedding) for it in inside)
        if (table := next(in_file, None)) is None or is_shared:
            return []
        own_ids = ids_of_layer(hash_ids, self.slot, hash_ids.shape[:2])
        return [(table, self.multi_head_embedding.row_ids(own_ids))]

    def count_parameters(self) -> dict[str, int]:
        """Count the parameters by part: ``table``, and the parts of the layout's `dense_parts`.

        A table that processes share counts as a whole.
        """
        table = self.frozen_table
        parts = {} if table is None else {"table": table.num_embeddings * table.embedding_dim}
        for name, parameter in self.named_parameters():
            first = name.partition(".")[0]
            part = "table" if first == "multi_head_embedding" else first
            parts[part] = parts.get(part, 0) + parameter.numel()
        for module in self.multi_head_embedding.modules():
            if isinstance(module, ShardedEmbedding):
                elsewhere = module.num_embeddings - module.rows.count
                parts["table"] += elsewhere * module.embedding_dim
        return parts

    def _build(self, factory: dict[str, Any]) -> None:
        """Make the variant's weights, with `device` and `dtype` as in `factory`."""
        raise NotImplementedError

    def _reset_dense(self, init: Init) -> None:
        """Initialise everything but the table."""
        raise NotImplementedError

    def _look_up(self, hash_ids: Tensor, positions: torch.Size) -> Tensor:
        """Look up the memory ``[B, T, E]`` of hash ids ``[B, T, C]`` or ``[B, T, L, C]``."""
        memory: Tensor = self.multi_head_embedding(ids_of_layer(hash_ids, self.slot, positions))
        # Without gradients first: a search of modules takes as long as the look-up of a token.
        if not torch.is_grad_enabled() or (table := self.frozen_table) is None:
            return memory
        learns = any(parameter.requires_grad for parameter in self.parameters())
        return table.refuse_gradients(memory) if learns else memory

    def _read(
        self,
        streams: Tensor,
        memory: Tensor,
        keep: Tensor | None,
        window: Tensor | None,
        since: Tensor | None,
    ) -> tuple[Tensor, Tensor, ConvPast | None]:
        """Gate the memory by the hidden states.

        Args:
            streams: Hidden states ``[B, T, M, D]``.
            memory: The memory ``[B, T, E]``, of the table's dtype.
            keep: Bool ``[B, T]`` or None.
            window: The convolution's earlier inputs ``[B, <= W, P]`` or None.
            since: See `forward`.

        Returns:
            The result ``[B, T, M, D]``, the gates ``[B, T, M]``, and the past for later tokens.
        """
        raise NotImplementedError

    def _conv_inputs(self, memory: Tensor, gates: Tensor) -> Tensor:
        """Compute the convolution's inputs ``[B, T, P]`` again, in layouts that have one.

        Args:
            memory: The memory ``[B, T, E]``.
            gates: The gates that `_read` returned ``[B, T, M]``.
        """
        raise NotImplementedError
