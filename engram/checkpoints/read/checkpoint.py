"""`open_checkpoint`: the one way to open what may hold a memory; headers are read on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from engram.backbone.find_backbone import read_hub_config
from engram.checkpoints.published.recognise import (
    Released,
    find_family,
    is_hub_id,
    no_memory,
    recognise,
)
from engram.checkpoints.published.stored import Stored, read_stored, stored_model_config
from engram.checkpoints.read.adapter import read_adapter
from engram.checkpoints.read.attached_files import ADAPTER_FILE, CONFIG_FILE
from engram.checkpoints.read.memory_shapes import parameter_shapes
from engram.checkpoints.read.model_folder import resolve_model
from engram.checkpoints.read.published_memory import (
    check_constants,
    config_of_release,
    layers_of_release,
    stated_beside,
)
from engram.checkpoints.read.settings import (
    BaseFiles,
    base_files,
    damaged,
    stated_addresses,
    stated_config,
    stated_layers_path,
    stated_settings,
)
from engram.checkpoints.read.stored_tensor import StoredTensor, stored_tensor
from engram.config.engram_config import EngramConfig
from engram.errors import InputError, MismatchError, MissingFileError, UsageError
from engram.layouts import get_layout
from engram.storage.gguf import refuse_gguf, refuse_gguf_folder
from engram.storage.safetensors_headers import TensorInfo
from engram.tensor_names import SCALE, TABLE, is_memory, tensor_name

if TYPE_CHECKING:
    from engram.addressing.addresses import Addresses
    from engram.addressing.tokenizer_files import TokenizerFile

# With a memory that was attached, such a memory alone, a release with a memory, or without any.
Kind = Literal["attached", "adapter", "released", "base"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint here or on the hub, an adapter, or a state dict.

    Its config was read; everything else is read once, when it is first asked for.

    Attributes:
        name: Its path, or its id on the hub.
        path: The folder or lone file; None on the hub.
        revision: Branch, tag or commit on the hub.
        model_config: Its config.json, of an adapter that of the whole; empty where there is none.
        adapter: What an adapter says about itself; empty for the rest.
        stated: What attaching wrote about the memory; None for what attaching did not write.
        given: The memory, where the caller states it and the files do not.
    """

    name: str
    path: Path | None
    revision: str | None
    model_config: dict[str, Any]
    adapter: Mapping[str, Any] = field(default_factory=dict)
    stated: dict[str, Any] | None = None
    given: EngramConfig | None = None

    @property
    def kind(self) -> Kind:
        """What it is."""
        if self.stated is not None:
            return "adapter" if self.adapter else "attached"
        return "base" if find_family(self.files) is None else "released"

    @property
    def folder(self) -> Path | None:
        """The folder that its files are in; None on the hub."""
        return self.path if self.path is None or self.path.is_dir() else self.path.parent

    @property
    def where(self) -> str:
        """Name of the file that says what the memory is."""
        return f"{self.name}/{ADAPTER_FILE if self.adapter else CONFIG_FILE}"

    def demand_config(self) -> None:
        """Refuse a folder that has no config.json.

        Raises:
            MissingFileError: It has none.
            InputError: It holds GGUF files instead.
        """
        if self.path is not None and not (self.path / CONFIG_FILE).is_file():
            refuse_gguf_folder(self.path)
            raise MissingFileError(
                f"{self.path} has no {CONFIG_FILE}: it is not a Hugging Face checkpoint.",
                "Give the folder that holds config.json and the weights.",
                path=str(self.path / CONFIG_FILE),
            )

    def downloaded(self, trust_remote_code: bool = False) -> Checkpoint:
        """Return it with its files here: itself, or the hub's after a download.

        Raises:
            MissingFileError: The hub does not give it.
        """
        if self.path is not None:
            return self
        path = resolve_model(self.name, self.revision, trust_remote_code=trust_remote_code)
        return replace(self, path=path)

    @cached_property
    def files(self) -> Stored:
        """Its weight files, as their headers describe them; what is wrong with them is in it."""
        if self.path is not None:
            needs_index = self.stated is not None
            return read_stored(self.path, self.model_config, needs_index=needs_index)
        from engram.checkpoints.published.stored_on_hub import read_hub

        return read_hub(self.name, self.revision, self.model_config)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor that the files hold, by name."""
        return self.files.tensors

    @property
    def memory_tensors(self) -> dict[str, TensorInfo]:
        """Those that belong to a memory that was attached."""
        return {name: info for name, info in self.tensors.items() if is_memory(name)}

    @property
    def base_tensors(self) -> dict[str, TensorInfo]:
        """Those that do not."""
        return {name: info for name, info in self.tensors.items() if not is_memory(name)}

    @cached_property
    def released(self) -> Released:
        """The release that it is.

        Raises:
            InputError: It has no memory.
            MissingFileError: A file is not there.
            CorruptFileError: A file is torn.
            ConfigError: Its config lacks what the memory follows from.
        """
        found = recognise(self.files)
        if found is None:
            raise no_memory(self.files)
        self.files.demand_whole()
        return found

    @cached_property
    def base(self) -> BaseFiles:
        """Where the files of its base are, in a folder that attaching wrote."""
        return base_files(self.stated or {}, self.where)

    @cached_property
    def config(self) -> EngramConfig:
        """The memory, as it is stated.

        Raises:
            UsageError: Nobody states it.
            ConfigError: It is wrong.
        """
        if self.stated is not None:
            return stated_config(self.stated, self.where)
        given = self.given
        if given is None and self._beside is not None:
            given = EngramConfig.from_dict(self._beside["config"])
        return config_of_release(self.released, given)

    @cached_property
    def stored_config(self) -> EngramConfig:
        """The memory with the dtype that its tables have in the files.

        Raises:
            MismatchError: They differ in it.
        """
        dtypes = {tensors[TABLE].dtype for tensors in self.layers.values()}
        if len(dtypes) != 1:
            raise MismatchError(
                f"The tables are stored as {' and '.join(sorted(dtypes))}; all must be alike.",
                dtypes=sorted(dtypes),
            )
        return replace(self.config, table_dtype=dtypes.pop())

    @cached_property
    def _beside(self) -> dict[str, Any] | None:
        """Config and addresses that `engram convert` wrote beside published names."""
        return None if self.folder is None else stated_beside(self.folder)

    @cached_property
    def addresses(self) -> Addresses | None:
        """The constants that are stored, without their token map; None where none are."""
        from engram.addressing.addresses import Addresses

        if self.stated is not None:
            return stated_addresses(self.stated, self.config, self.where)
        return None if self._beside is None else Addresses.from_dict(self._beside["addresses"])

    @property
    def wired(self) -> Addresses:
        """The constants of a memory that was attached.

        Raises:
            CorruptFileError: They are missing.
        """
        if self.addresses is None:
            raise damaged(self.where, "engram.addresses is missing")
        return self.addresses

    @cached_property
    def layers_path(self) -> str:
        """Dotted name of the list of layers of the model that a memory was attached to."""
        return stated_layers_path(self.stated or {}, self.where)

    def demand_settings(self) -> None:
        """Refuse a memory that attaching did not describe as it does.

        Raises:
            CorruptFileError: Something is missing, of another type, or names a file outside.
            ConfigError: The memory's config is wrong.
            LayoutError: Its layout is unknown.
            MismatchError: Its addresses are not those of their fingerprint, or of the config.
        """
        _ = self.config, self.layers_path, self.wired, self.base

    def name_of(self, layer_id: int, part: str) -> str:
        """Name a tensor of a memory that was attached."""
        return tensor_name(self.layers_path, layer_id, part)

    def constant(self, layer_id: int, part: str, dtype: str) -> NDArray[Any]:
        """Read a small tensor of a memory that was attached.

        Raises:
            KeyError: It is not in the files.
        """
        info = self.tensors[self.name_of(layer_id, part)]
        return np.frombuffer(self.files.read(info), dtype=dtype).reshape(info.shape)

    @cached_property
    def layers(self) -> dict[int, dict[str, StoredTensor]]:
        """The memory's parameters by layer, under our names.

        Raises:
            MissingFileError: The files, or some of them, are not there.
            InputError: There is no memory in them.
            MismatchError: They do not fit the config.
            LayoutError: They hold a kind of memory that is not converted.
        """
        if self.stated is None:
            return layers_of_release(self.released, self.config)
        self.demand_settings()
        self.files.demand_whole()
        return {
            layer.layer_id: self._layer(
                layer.layer_id, parameter_shapes(self.config, layer.stored_rows)
            )
            for layer in self.wired.layers
        }

    def _layer(
        self, layer_id: int, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, StoredTensor]:
        names = {part: self.name_of(layer_id, part) for part in (*shapes, SCALE)}
        missing = [names[part] for part in shapes if names[part] not in self.tensors]
        if missing:
            raise MissingFileError(
                f"{self.name} lacks {missing[0]}.",
                f"Check it: engram verify {self.name}",
                tensors=missing,
            )
        scale = [self.tensors[names[SCALE]]] if names[SCALE] in self.tensors else []
        return {
            part: stored_tensor(
                names[part], shape, [self.tensors[names[part]]], scale if part == TABLE else []
            )
            for part, shape in shapes.items()
        }

    def load_tokenizer(self) -> TokenizerFile:
        """Read the tokenizer beside its files, here or on the hub.

        Raises:
            MissingFileError: There is none.
        """
        from engram.addressing.tokenizer_files import load_tokenizer

        return load_tokenizer(self.folder or self.name, self.revision)

    def check(self, addresses: Addresses) -> None:
        """Compare everything that is stored about addresses with those that were computed.

        Raises:
            MismatchError: They differ: it is another tokenizer, or another config.
        """
        if self.addresses is not None:
            addresses.check(self.addresses.to_dict())
        if self.stated is None:
            check_constants(self.released, addresses)

    def addresses_with(self, tokenizer: TokenizerFile | None) -> Addresses:
        """Take the constants that are stored, or compute them where none are.

        Args:
            tokenizer: The memory's tokenizer; the one beside its files when None, if one is needed.

        Returns:
            The constants; stored ones come without their token map.

        Raises:
            MissingFileError: There is no tokenizer where one is needed.
            MismatchError: It is another tokenizer, or another config.
        """
        from engram.addressing.addresses import Addresses
        from engram.addressing.same_tokenizer import check_tokenizer
        from engram.addressing.tokenizer import EngramTokenizer

        if self.addresses is not None:
            if tokenizer is not None and self.addresses.map_sha256 is not None:
                check_tokenizer(self.addresses, tokenizer)
            return self.addresses
        if get_layout(self.config.layout).hashes == "raw":
            made = Addresses.from_config(self.config, None)
        else:
            made = EngramTokenizer(self.config, tokenizer or self.load_tokenizer()).addresses
        self.check(made)
        return made


def open_checkpoint(
    target: str | Path,
    revision: str | None = None,
    *,
    config: EngramConfig | None = None,
    short_names: bool = False,
) -> Checkpoint:
    """Open what may hold a memory: by its config alone, which is read here and nowhere else.

    Args:
        target: A folder, a lone safetensors file, or ``organisation/name`` on the hub.
        revision: Branch, tag or commit on the hub.
        config: The memory, where the files do not state it: the reference demo's.
        short_names: Names without an organisation may be on the hub, as transformers takes them.

    Raises:
        MissingFileError: It is not there, or cannot be reached.
        InputError: It is a file of another kind.
        CorruptFileError: Its config is not JSON, or what it says about a memory is damaged.
        UsageError: A config was given, and the files state their own.
    """
    name, path = str(target), Path(target)
    is_name = is_hub_id(name) or (short_names and not name.startswith((".", "/", "~")))
    if is_name and isinstance(target, str) and not path.exists():
        opened = Checkpoint(name, None, revision, read_hub_config(name, revision))
    else:
        opened = _open_here(path)
    model_config, where = opened.model_config, opened.where
    stated = stated_settings(model_config, where)
    if stated is None and opened.adapter:
        raise damaged(where, "model_config.engram is missing")
    if stated is not None and config is not None:
        raise UsageError(f"{opened.name} states its config: leave -c out.")
    return replace(opened, stated=stated, given=config)


def _open_here(path: Path) -> Checkpoint:
    refuse_gguf(path)
    if not path.exists():
        raise MissingFileError(
            f"{path}: no such file or folder.",
            "Check the path; hf download NAME --local-dir FOLDER brings a checkpoint from the hub.",
            path=str(path),
        )
    if not path.is_dir() and path.suffix != ".safetensors":
        raise InputError(
            f"{path} is no checkpoint: neither a folder nor a safetensors file.",
            "Give the checkpoint's folder. What a config means, engram report shows.",
            path=str(path),
        )
    if (path / ADAPTER_FILE).is_file():
        adapter = read_adapter(path)
        return Checkpoint(str(path), path, None, adapter["model_config"], adapter)
    return Checkpoint(str(path), path, None, stored_model_config(path))
