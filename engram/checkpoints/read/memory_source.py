"""`MemorySource`: a memory in files, whatever names it is stored under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engram.addressing.addresses import Addresses
from engram.addressing.same_tokenizer import check_tokenizer
from engram.addressing.tokenizer import EngramTokenizer
from engram.addressing.tokenizer_files import load_tokenizer
from engram.checkpoints.read.stored_tensor import StoredTensor
from engram.config.engram_config import EngramConfig
from engram.errors import MismatchError
from engram.layouts import get_layout
from engram.storage.safetensors_headers import TensorInfo
from engram.tensor_names import TABLE

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile


@dataclass(frozen=True)
class MemorySource:
    """A memory in files.

    Attributes:
        path: The folder or file.
        kind: An attached folder, an adapter, or published names of the layout.
        config: The memory, with the dtype that its tables are stored in.
        layers: Its parameters by layer, under our names.
        tensors: Everything that the files hold, by name.
        settings: What attaching wrote about it; None under published names.
        constants: Stored constants under published names, which follow from the config: values by
            layer and our name for them.
        stated: The addresses that were stored with it, as `Addresses.to_dict` wrote them; None for
            memories that store none.
        vocab_size: Compressed vocabulary that a published config states; None when it states none.
    """

    path: Path
    kind: Literal["attached", "adapter", "published"]
    config: EngramConfig
    layers: Mapping[int, Mapping[str, StoredTensor]]
    tensors: Mapping[str, TensorInfo]
    settings: dict[str, Any] | None = None
    constants: tuple[tuple[int, str, list[int]], ...] = ()
    stated: dict[str, Any] | None = None
    vocab_size: int | None = None

    def check(self, addresses: Addresses) -> None:
        """Compare everything that is stored about addresses with those that were computed.

        Raises:
            MismatchError: They differ: it is another tokenizer, or another config.
        """
        if self.stated is not None:
            addresses.check(self.stated)
        if self.vocab_size not in (None, addresses.vocab_size):
            raise MismatchError(
                f"{self.path} was made for {self.vocab_size} compressed ids, the tokenizer gives "
                f"{addresses.vocab_size}.",
                "Name the tokenizer that the memory was made with: -t TOKENIZER",
                stored=self.vocab_size,
                expected=addresses.vocab_size,
            )
        for layer in addresses.layers:
            right = {"offsets": layer.offsets, "sizes": layer.heads, "factors": layer.multipliers}
            for layer_id, what, stored in self.constants:
                if layer_id == layer.layer_id and tuple(stored) != right[what]:
                    raise MismatchError(
                        f"{self.path}: layer {layer_id} stores other {what} than the config gives: "
                        f"{stored}, not {list(right[what])}.",
                        "Give the config, and the tokenizer, that the memory was made with.",
                        stored=stored,
                        expected=list(right[what]),
                    )


def addresses_of(memory: MemorySource, tokenizer: TokenizerFile | None) -> Addresses:
    """Take a memory's stored constants, or compute those that are not stored.

    Args:
        memory: The memory.
        tokenizer: Its tokenizer; the one beside its files when None, if one is needed.

    Returns:
        The constants; stored ones come without their token map.

    Raises:
        MissingFileError: There is no tokenizer where one is needed.
        MismatchError: It is another tokenizer, or another config.
    """
    stated = memory.stated if memory.settings is None else memory.settings["addresses"]
    if stated is not None:
        addresses = Addresses.from_dict(stated)
        if tokenizer is not None and addresses.map_sha256 is not None:
            check_tokenizer(addresses, tokenizer)
        return addresses
    if get_layout(memory.config.layout).hashes == "raw":
        addresses = Addresses.from_config(memory.config, None)
    else:
        folder = memory.path if memory.path.is_dir() else memory.path.parent
        made = EngramTokenizer(memory.config, tokenizer or load_tokenizer(folder))
        addresses = made.addresses
    memory.check(addresses)
    return addresses


def shapes_of(config: EngramConfig, rows: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer's parameters under our names."""
    return {**get_layout(config.layout).dense_shapes(config), TABLE: (rows, config.row_width)}


def as_stored(
    config: EngramConfig, layers: Mapping[int, Mapping[str, StoredTensor]]
) -> EngramConfig:
    """Return a config with the dtype that the tables have in the files.

    Raises:
        MismatchError: They differ in it.
    """
    dtypes = {tensors[TABLE].dtype for tensors in layers.values()}
    if len(dtypes) != 1:
        raise MismatchError(
            f"The tables are stored as {' and '.join(sorted(dtypes))}; all must be alike.",
            dtypes=sorted(dtypes),
        )
    return replace(config, table_dtype=dtypes.pop())
