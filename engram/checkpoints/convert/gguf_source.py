"""`GgufSource`: a memory in GGUF as conversions read one: its config, constants and tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.same_memory import check_config, check_tokenizer
from engram.addressing.tokenizer_files import TokenizerFile
from engram.checkpoints.gguf.gguf_addresses import gguf_addresses
from engram.checkpoints.gguf.gguf_facts import pad_token
from engram.checkpoints.gguf.gguf_memory import GgufMemory
from engram.checkpoints.gguf.gguf_stored import GgufStored, gguf_stored
from engram.checkpoints.read.memory_tensors import parameter_shapes
from engram.config.engram_config import EngramConfig
from engram.errors import MismatchError, MissingFileError
from engram.storage.dtypes import FP8_SCALE_BLOCK
from engram.storage.gguf_headers import GgufTensor
from engram.tensor_names import TABLE

TOOLKIT_PREFIX = "engram_toolkit."


def block_scales_key(layer_id: int, part: str) -> str:
    """Return the key for the scales that a projection had in fp8; engines ignore it.

    With it a projection that is wider in a GGUF file becomes the same bytes again.
    """
    return f"{TOOLKIT_PREFIX}layers.{layer_id}.{part}.scales"


@dataclass(frozen=True, eq=False)
class GgufSource:
    """A memory in GGUF files, to be converted.

    Attributes:
        memory: The files.
    """

    memory: GgufMemory

    @property
    def name(self) -> str:
        """The file, or the folder, as it was named."""
        return self.memory.name

    @cached_property
    def addresses(self) -> Addresses:
        """Its constants, with their token map."""
        return gguf_addresses(self.memory)

    def addresses_with(self, tokenizer: TokenizerFile | None) -> Addresses:
        """Return its constants, which are those of their rules, and of a tokenizer.

        Raises:
            MismatchError: They are not.
        """
        try:
            check_config(self.addresses, self.stored_config, self.name)
        except MismatchError as error:
            raise MismatchError(
                error.message,
                f"See what is wrong: engram verify {self.name}; engram convert {self.name} "
                "--repair -o OUTPUT mends what metadata can.",
                **error.details,
            ) from None
        if tokenizer is not None and self.addresses.map_sha256 is not None:
            check_tokenizer(self.addresses, tokenizer)
        return self.addresses

    def check(self, addresses: Addresses) -> None:
        """Compare its constants with those of a config and a tokenizer.

        Raises:
            MismatchError: They differ.
        """
        addresses.check(self.addresses.to_dict(), self.name)

    @cached_property
    def stored_config(self) -> EngramConfig:
        """The memory, as its constants and the shapes of its tensors tell it.

        Raises:
            MissingFileError: A tensor that tells a size is not there.
        """
        memory, addresses = self.memory, self.addresses
        layer_id, heads = addresses.layer_ids[0], addresses.n_heads
        width = next(it.width for it in memory.tables if it.layer_id == layer_id)
        # Sizes of the module: the projections' columns, and their rows.
        of_rows = "wkv.weight" if memory.layout.name == "deepseek_v41" else "key_proj.weight"
        of_streams = "q_weight" if memory.layout.name == "deepseek_v41" else "value_proj.weight"
        hidden = self._weight(layer_id, of_streams).dims[0 if of_streams == "q_weight" else 1]
        streams = self._weight(layer_id, of_rows).dims[1] // hidden - (of_rows == "wkv.weight")
        # Where nothing states it, the search began at the first prime or a little below.
        base = memory.integer("size_base") or min(min(layer.heads) for layer in addresses.layers)
        is_raw = addresses.map_sha256 is None
        return EngramConfig(
            layout=memory.layout.name,
            hidden_size=hidden,
            engram_vocab_size=addresses.raw_vocab_size,
            engram_table_size=[base * heads] * addresses.n_orders,
            max_ngram_size=addresses.max_ngram_size,
            n_embed_per_ngram=(width or 0) * heads,
            n_head_per_ngram=heads,
            layer_ids=list(addresses.layer_ids),
            hc_mult=streams,
            kernel_size=memory.integer("kernel_size") or memory.layout.kernel_size,
            pad_id=None if is_raw else pad_token(addresses),
            eos_id=addresses.fill if is_raw else None,
            seed=memory.layout.seed,
            table_dtype=self._table_dtype,
        )

    @property
    def table_form(self) -> str:
        """Encoding of the rows of its tables."""
        return self.memory.tables[0].encoding

    @cached_property
    def layers(self) -> dict[int, dict[str, GgufStored]]:
        """Its parameters by layer, under our names.

        Raises:
            MissingFileError: One is not in the files.
            MismatchError: One has another size than the others tell.
            LayoutError: One is stored in a way that is not read.
        """
        tables = {table.layer_id: table for table in self.memory.tables}
        found = {}
        for layer in self.addresses.layers:
            layer_id = layer.layer_id
            shapes = parameter_shapes(self.stored_config, layer.stored_rows)
            found[layer_id] = {
                part: self._dense(layer_id, part, shape)
                for part, shape in shapes.items()
                if part != TABLE
            }
            table = tables[layer_id]
            found[layer_id][TABLE] = gguf_stored(
                f"layers.{layer_id} {TABLE}", shapes[TABLE], table.decoded, table.encoding
            )
        return found

    def _dense(self, layer_id: int, part: str, shape: tuple[int, ...]) -> GgufStored:
        tensor = self._weight(layer_id, part)
        shift = self.memory.dialect.shifts.get(part, 0.0)
        name = f"layers.{layer_id} {part}"
        stored = gguf_stored(name, shape, [tensor], tensor.type_name, shift)
        return replace(stored, block_scales=self._block_scales(layer_id, part, shape))

    def _block_scales(
        self, layer_id: int, part: str, shape: tuple[int, ...]
    ) -> NDArray[np.uint8] | None:
        value = self.memory.files.values.get(block_scales_key(layer_id, part))
        blocks = [size // FP8_SCALE_BLOCK for size in shape]
        if value is None or not value.is_array or value.kind != "uint8":
            return None
        if value.count != prod(blocks):
            return None
        return value.numbers().astype(np.uint8).reshape(blocks)

    def _weight(self, layer_id: int, part: str) -> GgufTensor:
        tensor = self.memory.weights.get(layer_id, {}).get(part)
        if tensor is None:
            template = self.memory.dialect.weights.get(part, part)
            name = template.replace("{layer}", str(layer_id))
            raise MissingFileError(
                f"{self.name} lacks {name}.",
                f"See all that it lacks: engram report {self.name}",
                tensors=[name],
            )
        return tensor

    @property
    def _table_dtype(self) -> str:
        table = self.memory.tables[0]
        return gguf_stored("", (table.rows, table.width or 0), table.decoded, table.encoding).dtype
