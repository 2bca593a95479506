"""`MemorySource`: a memory in files, whatever names it is stored under."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engram.addressing.addresses import Addresses
from engram.addressing.primes import head_primes, stored_rows
from engram.addressing.tokenizer import EngramTokenizer
from engram.addressing.tokenizer_files import load_tokenizer
from engram.backbone.headers import TensorInfo, read_folder_headers
from engram.checkpoints.adapter import ADAPTER_FILE
from engram.checkpoints.inspect import memory_settings
from engram.checkpoints.names import SCALE, TABLE
from engram.checkpoints.released import Released, no_memory, open_stored, recognise
from engram.checkpoints.released.family import text_part
from engram.checkpoints.stored_tensor import StoredTensor, stored_tensor
from engram.config import EngramConfig
from engram.errors import CorruptFileError, LayoutError, MismatchError, MissingFileError, UsageError
from engram.layouts import deepseek_v41, demo, get_layout, qwen_ple

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile

# What a memory under published names is made of, written beside it.
MEMORY_FILE = "engram_memory.json"

_OUR_NAME: dict[str, Callable[[str], tuple[str, int | None]]] = {
    "demo": demo.from_reference_name,
    "deepseek_v41": deepseek_v41.from_reference_name,
    "qwen_ple": qwen_ple.from_reference_name,
}


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


def open_memory(path: Path, config: EngramConfig | None = None) -> MemorySource:
    """Find a memory's tensors by headers alone.

    Args:
        path: An attached folder, an adapter, or a folder or safetensors file with published names.
        config: The memory; needed where the files do not state it: the reference demo's.

    Raises:
        MissingFileError: The files, or some of them, are not there.
        InputError: There is no memory in them, or it does not state its config.
        MismatchError: They do not fit the config.
        LayoutError: They hold a kind of memory that is not converted.
    """
    settings = memory_settings(path) if path.is_dir() else None
    return _published(path, config) if settings is None else _ours(path, settings, config)


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
    if memory.settings is not None:
        return Addresses.from_dict(memory.settings["addresses"])
    if memory.stated is not None:
        return Addresses.from_dict(memory.stated)
    if get_layout(memory.config.layout).hashes == "raw":
        addresses = Addresses.from_config(memory.config, None)
    else:
        folder = memory.path if memory.path.is_dir() else memory.path.parent
        made = EngramTokenizer(memory.config, tokenizer or load_tokenizer(folder))
        addresses = made.addresses
    memory.check(addresses)
    return addresses


def _ours(path: Path, settings: dict[str, Any], config: EngramConfig | None) -> MemorySource:
    if config is not None:
        raise UsageError(f"{path} states its config: leave -c out.")
    try:
        config = EngramConfig.from_dict(settings["config"])
        addresses = Addresses.from_dict(settings["addresses"])
        prefix = str(settings["layers_path"])
    except (KeyError, TypeError) as error:
        raise CorruptFileError(
            f"{path}: what attaching wrote about its memory is not whole ({error!r}).",
            "Restore the file.",
            path=str(path),
        ) from None
    tensors = read_folder_headers(path)
    if tensors is None:
        raise MissingFileError(
            f"{path} has no safetensors weights.", "Copy the whole folder.", path=str(path)
        )
    layers = {}
    for layer in addresses.layers:
        start = f"{prefix}.{layer.layer_id}.engram."
        shapes = _shapes(config, layer.stored_rows)
        missing = [start + name for name in shapes if start + name not in tensors]
        if missing:
            raise MissingFileError(
                f"{path} lacks {missing[0]}.", f"Check it: engram verify {path}", tensors=missing
            )
        scale = [tensors[start + SCALE]] if start + SCALE in tensors else []
        layers[layer.layer_id] = {
            name: stored_tensor(
                start + name, shape, [tensors[start + name]], scale if name == TABLE else []
            )
            for name, shape in shapes.items()
        }
    kind: Literal["attached", "adapter"]
    kind = "adapter" if (path / ADAPTER_FILE).is_file() else "attached"
    return MemorySource(path, kind, _as_stored(config, layers), layers, tensors, settings)


def _published(path: Path, config: EngramConfig | None) -> MemorySource:
    found = recognise(open_stored(path))
    if found is None:
        raise no_memory(open_stored(path))
    found.stored.demand_whole()
    stated = _stated(path)
    if stated is not None and config is None:
        config = EngramConfig.from_dict(stated["config"])
    config = config or found.memory.config
    layout = found.family.layout
    if layout not in _OUR_NAME:
        raise LayoutError(
            f"{path} holds {found.family.title}: there is no module of that kind to convert to.",
            layout=layout,
        )
    if config is None:
        raise UsageError(f"{path} does not state the config of its memory.", "Give it: -c CONFIG")
    if config.layout != layout:
        raise MismatchError(
            f"{path} holds a memory of layout {layout}, the config is for {config.layout}.",
            "Give the config that the memory was made with.",
            stored=layout,
            expected=config.layout,
        )
    layers = {
        layer_id: _published_layer(found, layer_id, _shapes(config, rows))
        for layer_id, rows in _rows(config).items()
    }
    others = {slot.layer_id for slot in found.slots.values()} - set(layers)
    if others:
        raise MismatchError(
            f"{path} also holds the memory of layer {sorted(map(str, others))[0]}, which the "
            f"config has not: {config.layer_ids}.",
            "Give the config that the memory was made with.",
            layer_ids=config.layer_ids,
        )
    return MemorySource(
        path,
        "published",
        _as_stored(replace(config, tokenizer=None), layers),
        layers,
        found.stored.tensors,
        constants=tuple(_constants(found)),
        stated=None if stated is None else stated["addresses"],
        vocab_size=text_part(found.stored.config).get("engram_compressed_vocab_size"),
    )


def _published_layer(
    found: Released, layer_id: int, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, StoredTensor]:
    """Gather one layer's tensors under our names."""
    keys = {
        slot.key
        for slot in found.slots.values()
        if slot.layer_id == layer_id and slot.role != "constants"
    }
    parts: dict[str, dict[int, str]] = {}
    for key in keys:
        ours, part = _OUR_NAME[found.family.layout](key)
        parts.setdefault(ours, {})[part or 0] = key
    unknown = sorted(set(parts) - set(shapes))
    missing = sorted(set(shapes) - set(parts))
    if unknown or missing:
        what = f"holds {unknown[0]}, which is not" if unknown else f"lacks {missing[0]}, which is"
        raise MismatchError(
            f"{found.stored.name}: layer {layer_id} {what} in its layout {found.family.layout}.",
            "Check it: engram verify " + found.stored.name,
            missing=missing,
            unknown=unknown,
        )
    made = {}
    for ours, shape in shapes.items():
        ordered = [(layer_id, key) for _, key in sorted(parts[ours].items())]
        pieces = [info for key in ordered for info in found.infos(key)]
        scales = [info for key in ordered for info in found.infos(key, scale=True)]
        made[ours] = stored_tensor(f"layers.{layer_id} {ours}", shape, pieces, scales)
    return made


def _constants(found: Released) -> list[tuple[int, str, list[int]]]:
    kinds = {"offsets": "offsets", "vocab_sizes": "sizes", "layer_multipliers": "factors"}
    return [
        (slot.layer_id, what, found.stored.integers(name))
        for name, slot in found.slots.items()
        for ending, what in kinds.items()
        if slot.role == "constants" and slot.layer_id is not None and slot.key.endswith(ending)
    ]


def _rows(config: EngramConfig) -> dict[int, int]:
    return {
        layer_id: stored_rows(primes, config.row_multiple)
        for layer_id, primes in head_primes(config).items()
    }


def _shapes(config: EngramConfig, rows: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer's parameters under our names."""
    return {**get_layout(config.layout).dense_shapes(config), TABLE: (rows, config.row_width)}


def _as_stored(
    config: EngramConfig, layers: Mapping[int, Mapping[str, StoredTensor]]
) -> EngramConfig:
    dtypes = {tensors[TABLE].dtype for tensors in layers.values()}
    if len(dtypes) != 1:
        raise MismatchError(
            f"The tables are stored as {' and '.join(sorted(dtypes))}; all must be alike.",
            dtypes=sorted(dtypes),
        )
    return replace(config, table_dtype=dtypes.pop())


def _stated(path: Path) -> dict[str, Any] | None:
    """Read what `engram convert` wrote beside published names."""
    import json

    file = (path if path.is_dir() else path.parent) / MEMORY_FILE
    if not file.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(file.read_bytes())
        return {"config": values["config"], "addresses": values["addresses"]}
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(
            f"{file} is not what engram convert wrote ({error!r}).",
            "Restore it, or remove it and give -c CONFIG.",
            path=str(file),
        ) from None
