"""`Checkpoint`: what may hold a memory, opened by its config; the rest is read when it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engram.checkpoints.published.recognise import Released, find_family, no_memory, recognise
from engram.checkpoints.published.stored import Stored, read_stored
from engram.checkpoints.read.attached_files import CONFIG_FILE, MEMORY_FILE
from engram.checkpoints.read.model_folder import resolve_model
from engram.checkpoints.read.settings import MEMORY_SHAPE, BaseFiles, base_files, check_settings
from engram.config.engram_config import EngramConfig
from engram.errors import ConfigError, MismatchError, MissingFileError
from engram.storage.gguf import refuse_gguf_folder
from engram.storage.json_files import COPY_AGAIN, OBJECT, read_json
from engram.storage.safetensors_headers import TensorInfo
from engram.tensor_names import TABLE, is_memory, tensor_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engram.addressing.addresses import Addresses
    from engram.addressing.tokenizer_files import TokenizerFile
    from engram.checkpoints.read.stored_tensor import StoredTensor

# With a memory that was attached, such a memory alone, a release with a memory, or without any.
Kind = Literal["attached", "adapter", "released", "base"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint here or on the hub, an adapter, or a state dict.

    Its config was read; everything else is read once, when it is first asked for.

    Attributes:
        name: Its path, or its id on the hub.
        where: The file that says what it is, for messages.
        path: The folder or lone file; None on the hub.
        revision: Branch, tag or commit on the hub.
        model_config: Its config.json, of an adapter that of the whole; empty where there is none.
        adapter: What an adapter says about itself; empty for the rest.
        stated: What attaching wrote about the memory; None for what attaching did not write.
        given: The memory, where the caller states it and the files do not.
    """

    name: str
    where: str
    path: Path | None
    revision: str | None
    model_config: dict[str, Any]
    adapter: Mapping[str, Any] = field(default_factory=dict)
    stated: dict[str, Any] | None = None
    given: EngramConfig | None = None

    @property
    def kind(self) -> Kind:
        """Its kind."""
        if self.stated is not None:
            return "adapter" if self.adapter else "attached"
        return "base" if find_family(self.files) is None else "released"

    @property
    def folder(self) -> Path | None:
        """The folder that its files are in; None on the hub."""
        return self.path if self.path is None or self.path.is_dir() else self.path.parent

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
        """The places of its base's files, in a folder that attaching wrote."""
        return base_files(self.stated or {}, self.where)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that attaching wrote about the memory.

        Raises:
            CorruptFileError: It is not what attaching writes; every problem is named.
        """
        check_settings(self.stated, MEMORY_SHAPE, self.where)
        return self.stated or {}

    @cached_property
    def config(self) -> EngramConfig:
        """The memory, as it is stated.

        Raises:
            UsageError: Nobody states it.
            ConfigError: It is wrong.
        """
        if self.stated is not None:
            try:
                return EngramConfig.from_dict(self.settings["config"])
            except ConfigError as error:
                what = f"engram.config of {self.where}"
                raise ConfigError(error.problems, what, COPY_AGAIN) from None
        given = self.given
        if given is None and self._beside is not None:
            given = EngramConfig.from_dict(self._beside["config"])
        from engram.checkpoints.read.published_memory import config_of_release

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
        file = None if self.folder is None else self.folder / MEMORY_FILE
        if file is None or not file.is_file():
            return None
        hint = "Restore it, or remove it and give -c CONFIG."
        values: dict[str, Any] = read_json(file, {"config": OBJECT, "addresses": OBJECT}, hint=hint)
        return values

    @property
    def stores_addresses(self) -> bool:
        """Whether the memory's constants are stored, and not only what they follow from."""
        return self.stated is not None or self._beside is not None

    @cached_property
    def addresses(self) -> Addresses:
        """The constants that are stored, without their token map; see `stores_addresses`.

        Raises:
            CorruptFileError: Something is missing, or of another type.
            LayoutError: The memory's layout is unknown.
            MismatchError: They are not those of their fingerprint, or of the config.
        """
        from engram.addressing.addresses import Addresses
        from engram.addressing.same_memory import check_shape

        if self.stated is None:
            return Addresses.from_dict((self._beside or {})["addresses"])
        addresses = Addresses.from_dict(self.settings["addresses"])
        check_shape(addresses, self.config, self.where)
        return addresses

    @property
    def layers_path(self) -> str:
        """Dotted name of the list of layers of the model that a memory was attached to."""
        path: str = self.settings["layers_path"]
        return path

    def demand_settings(self) -> None:
        """Refuse a memory that attaching did not describe as it does.

        Raises:
            CorruptFileError: Something is missing, of another type, or names a file outside.
            ConfigError: The memory's config is wrong.
            LayoutError: Its layout is unknown.
            MismatchError: Its addresses are not those of their fingerprint, or of the config.
        """
        _ = self.settings, self.base, self.config, self.addresses

    def constant(self, layer_id: int, part: str, dtype: str) -> NDArray[Any]:
        """Read a small tensor of a memory that was attached.

        Raises:
            KeyError: It is not in the files.
        """
        import numpy as np

        info = self.tensors[tensor_name(self.layers_path, layer_id, part)]
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
        from engram.checkpoints.read.memory_tensors import attached_layers
        from engram.checkpoints.read.published_memory import layers_of_release

        if self.stated is None:
            return layers_of_release(self.released, self.config)
        self.demand_settings()
        self.files.demand_whole()
        return attached_layers(self.files, self.config, self.addresses, self.layers_path)

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
        from engram.checkpoints.read.published_memory import check_constants

        if self.stores_addresses:
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
        from engram.addressing.same_memory import check_tokenizer
        from engram.addressing.tokenizer import EngramTokenizer

        if self.stores_addresses:
            if tokenizer is not None and self.addresses.map_sha256 is not None:
                check_tokenizer(self.addresses, tokenizer)
            return self.addresses
        if self.config.rules.hashes == "raw":
            made = Addresses.from_config(self.config, None)
        else:
            made = EngramTokenizer(self.config, tokenizer or self.load_tokenizer()).addresses
        self.check(made)
        return made
