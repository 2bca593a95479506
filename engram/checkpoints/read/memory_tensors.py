"""Tensors that a memory consists of: shapes, names and places, ours or of a published layout."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from engram.addressing.addresses import Addresses
from engram.addressing.primes import head_primes, stored_rows
from engram.checkpoints.published.encoded_values import encoded_values
from engram.checkpoints.published.family import Released
from engram.checkpoints.read.encoded_tensor import EncodedTensor, encoded_tensor
from engram.checkpoints.read.stored_tensor import StoredTensor, stored_tensor
from engram.config.engram_config import EngramConfig
from engram.config.table_dtype import TableDtype
from engram.errors import LayoutError, MismatchError, MissingFileError, UsageError
from engram.layouts import LAYOUTS
from engram.layouts.dialect import Key
from engram.storage.dtypes import TABLE_DTYPES, scales_per_row
from engram.storage.stored import Stored
from engram.tensor_names import OFFSETS, SCALE, TABLE, TOKEN_MAP, tensor_name

# A tensor of a release: elements of a dtype, or packed rows.
ReleasedTensor = StoredTensor | EncodedTensor


def parameter_shapes(config: EngramConfig, rows: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer's parameters under our names, its table of so many rows last."""
    return {**config.rules.dense_shapes(config.sizes), TABLE: (rows, config.row_width)}


def expected_tensors(
    config: EngramConfig, dtype: TableDtype, addresses: Addresses, layers_path: str
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name every tensor that a memory has in a checkpoint.

    Args:
        config: The memory.
        dtype: dtype of its tables.
        addresses: Its constants.
        layers_path: Dotted name of the base's list of layers, such as ``model.layers``.

    Returns:
        Dtype tag (as safetensors names it) and shape by name; tables have the tag of their
        dtype, and the parts around them that of `TableDtype.around`.
    """
    form, tag = TABLE_DTYPES[dtype.name], TABLE_DTYPES[dtype.around].tag
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer in addresses.layers:
        prefix = tensor_name(layers_path, layer.layer_id, "")
        if layer is addresses.layers[0] and addresses.map_sha256 is not None:
            found[prefix + TOKEN_MAP] = ("I32", (addresses.raw_vocab_size,))
        found[prefix + OFFSETS] = ("I64", (addresses.n_columns,))
        for part, shape in parameter_shapes(config, layer.stored_rows).items():
            found[prefix + part] = (form.tag if part == TABLE else tag, shape)
        if form.scale_tag:
            scale_shape = (layer.stored_rows, scales_per_row(config.row_width, dtype.name))
            found[prefix + SCALE] = (form.scale_tag, scale_shape)
    return found


def attached_layers(
    files: Stored, config: EngramConfig, addresses: Addresses, layers_path: str
) -> dict[int, dict[str, StoredTensor]]:
    """Find the parameters of a memory that was attached, by layer and part.

    Args:
        files: The weight files.
        config: The memory.
        addresses: Its constants.
        layers_path: Dotted name of the model's list of layers.

    Raises:
        MissingFileError: One is not in the files.
        MismatchError: One has another shape than the config gives, or scales that do not fit.
        LayoutError: One is stored in a format that is not read.
    """
    layers = {}
    for layer in addresses.layers:
        shapes = parameter_shapes(config, layer.stored_rows)
        names = {part: tensor_name(layers_path, layer.layer_id, part) for part in (*shapes, SCALE)}
        found = {part: files.tensors[name] for part, name in names.items() if name in files.tensors}
        missing = [names[part] for part in shapes if part not in found]
        if missing:
            raise MissingFileError(
                f"{files.name} lacks {missing[0]}.",
                f"Check it: engram verify {files.name}",
                tensors=missing,
            )
        scales = {TABLE: [found[SCALE]] if SCALE in found else []}
        layers[layer.layer_id] = {
            part: stored_tensor(names[part], shape, [found[part]], scales.get(part, []))
            for part, shape in shapes.items()
        }
    return layers


def config_of_release(found: Released, given: EngramConfig | None) -> EngramConfig:
    """Return the memory of a release in our terms.

    Args:
        found: The release.
        given: The memory, where it is stated beside the release.

    Raises:
        LayoutError: It is a kind of memory that is not converted.
        UsageError: Nobody states the config.
        MismatchError: The config is of another layout.
    """
    config, layout, name = given or found.config, found.family.name, found.stored.name
    if layout not in LAYOUTS:
        raise LayoutError(
            f"{name} holds {found.title}: there is no module of that kind to convert to.",
            layout=layout,
        )
    if config is None:
        raise UsageError(
            f"{name} does not state the config of its memory.",
            "Give it: -c CONFIG (in Python, config=CONFIG)",
        )
    if config.layout != layout:
        raise MismatchError(
            f"{name} holds a memory of layout {layout}, the config is for {config.layout}.",
            "Give the config that the memory was made with.",
            stored=layout,
            expected=config.layout,
        )
    return replace(config, tokenizer=None)


def layers_of_release(
    found: Released, config: EngramConfig
) -> dict[int, dict[str, ReleasedTensor]]:
    """Gather the parameters of a release by layer, under our names.

    Args:
        found: The release.
        config: Its memory.

    Raises:
        MismatchError: The files do not fit the config.
        LayoutError: Rows are packed in a way that is not read.
    """
    layers = {
        layer_id: _published_layer(
            found, layer_id, parameter_shapes(config, stored_rows(primes, config.row_multiple))
        )
        for layer_id, primes in head_primes(config).items()
    }
    others = {slot.key.layer_id for slot in found.slots.values()} - set(layers)
    if others:
        raise MismatchError(
            f"{found.stored.name} also holds the memory of layer {sorted(map(str, others))[0]}, "
            f"which the config has not: {config.layer_ids}.",
            "Give the config that the memory was made with.",
            layer_ids=config.layer_ids,
        )
    return layers


def check_constants(found: Released, addresses: Addresses) -> None:
    """Compare the constants that a release stores with those that were computed.

    Raises:
        MismatchError: They differ: it is another tokenizer, or another config.
    """
    setting = found.family.released.setting("compressed_vocab_size")
    vocab_size = None if setting is None else setting.stated(found.stored.config)
    if vocab_size not in (None, addresses.vocab_size):
        raise MismatchError(
            f"{found.stored.name} was made for {vocab_size} compressed ids, the tokenizer gives "
            f"{addresses.vocab_size}.",
            "Name the tokenizer that the memory was made with: -t TOKENIZER (in Python, "
            "tokenizer=TOKENIZER)",
            stored=vocab_size,
            expected=addresses.vocab_size,
        )
    by_layer = {layer.layer_id: layer for layer in addresses.layers}
    for name, slot in found.slots.items():
        layer = None if slot.key.layer_id is None else by_layer.get(slot.key.layer_id)
        if layer is None or slot.role != "constants":
            continue
        stored = found.stored.integers(name)
        right = layer.constants[slot.key.name]
        if tuple(stored) != right:
            raise MismatchError(
                f"{found.stored.name}: layer {slot.key.layer_id} stores other {slot.key.name} than "
                f"the config gives: {stored}, not {list(right)}.",
                "Give the config, and the tokenizer, that the memory was made with.",
                stored=stored,
                expected=list(right),
            )


def _published_layer(
    found: Released, layer_id: int, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, ReleasedTensor]:
    """Gather one layer's tensors under our names."""
    keys = {
        slot.key
        for slot in found.slots.values()
        if slot.key.layer_id == layer_id and slot.role != "constants"
    }
    parts: dict[str, list[Key]] = {}
    for key in sorted(keys, key=lambda key: key.number or 0):
        parts.setdefault(key.name, []).append(key)
    unknown = sorted(key.name for key in keys if not (key.known and key.name in shapes))
    missing = sorted(set(shapes) - set(parts))
    if unknown or missing:
        what = f"holds {unknown[0]}, which is not" if unknown else f"lacks {missing[0]}, which is"
        raise MismatchError(
            f"{found.stored.name}: layer {layer_id} {what} in its layout {found.family.name}.",
            "Check it: engram verify " + found.stored.name,
            missing=missing,
            unknown=unknown,
        )
    return {ours: _gathered(found, ours, shape, parts[ours]) for ours, shape in shapes.items()}


def _gathered(
    found: Released, ours: str, shape: tuple[int, ...], keys: Sequence[Key]
) -> ReleasedTensor:
    """Gather a tensor from its pieces, or from those of every stream."""
    name = f"layers.{keys[0].layer_id} {ours}"
    encoded = encoded_values(found, keys[0], shape[-1]) if len(keys) == 1 else None
    if encoded is not None:
        return encoded_tensor(name, shape, encoded)
    return stored_tensor(
        name,
        shape,
        pieces=[info for key in keys for info in found.infos(key)],
        scales=[info for key in keys for info in found.infos(key, "scale")],
    )
