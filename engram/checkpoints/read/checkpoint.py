"""`Checkpoint`: what may hold a memory, opened by its config; the rest is read when it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.addressing.tokenizer_files import TokenizerFile, load_tokenizer
from engram.checkpoints.published.family import Released
from engram.checkpoints.published.recognise import recognise
from engram.checkpoints.read.attached_files import (
    BASE_SHAPE,
    CONFIG_FILE,
    MEMORY_FILE,
    MEMORY_SHAPE,
    BaseFiles,
    check_settings,
)
from engram.checkpoints.read.model_folder import resolve_model
from engram.config.engram_config import EngramConfig
from engram.errors import ConfigError, MismatchError, MissingFileError
from engram.storage.gguf import refuse_gguf_folder
from engram.storage.json_files import COPY_AGAIN, OBJECT, read_json
from engram.storage.safetensors_headers import TensorInfo
from engram.storage.stored import Stored, read_stored
from engram.tensor_names import TABLE, is_memory, tensor_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engram.addressing.addresses import Addresses
    from engram.checkpoints.read.stored_tensor import StoredTensor


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
        tokenizer: Name or path of a tokenizer to use instead of the one beside its files.
    """

    name: str
    where: str
    path: Path | None
    revision: str | None
    model_config: dict[str, Any]
    adapter: Mapping[str, Any] = field(default_factory=dict)
    stated: dict[str, Any] | None = None
    given: EngramConfig | None = None
    tokenizer: str | Path | None = None

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
        path = self.path or resolve_model(
            self.name, self.revision, trust_remote_code=trust_remote_code
        )
        return self if path == self.path else replace(self, path=path)

    @cached_property
    def files(self) -> Stored:
        """Its weight files, as their headers describe them; what is wrong with them is in it."""
        if self.path is not None:
            return read_stored(self.path, self.model_config, needs_index=self.stated is not None)
        from engram.storage.stored_on_hub import read_hub

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
        self.files.demand_whole()
        return found

    @cached_property
    def base(self) -> BaseFiles:
        """The places of its base's files, in a folder that attaching wrote.

        Raises:
            CorruptFileError: Something is missing, of another type, or names a file outside.
        """
        check_settings(self.stated, {"base": BASE_SHAPE}, self.where)
        base = (self.stated or {})["base"]
        return BaseFiles(
            shards=base["files"] or {},
            sidecars=base["sidecars"],
            replaced=base["replaced"],
            code=base.get("auto_map"),
        )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The memory's config and addresses, as attaching stated them, or converting did.

        Converting writes them beside published names. Empty where neither did.

        Raises:
            CorruptFileError: It is not what they write; every problem is named.
        """
        if self.stated is not None:
            check_settings(self.stated, MEMORY_SHAPE, self.where)
            return self.stated
        file = None if self.folder is None else self.folder / MEMORY_FILE
        if file is None or not file.is_file():
            return {}
        values: dict[str, Any] = read_json(
            file,
            {"config": OBJECT, "addresses": OBJECT},
            hint="Restore it, or remove it and give -c CONFIG (in Python, config=CONFIG).",
        )
        return values

    @cached_property
    def config(self) -> EngramConfig:
        """The memory, as it is stated.

        Raises:
            UsageError: Nobody states it.
            ConfigError: It is wrong.
        """
        config = self.given
        if config is None and self.settings:
            try:
                config = EngramConfig.from_dict(self.settings["config"])
            except ConfigError as error:
                key = "config" if self.stated is None else "engram.config"
                source = f"{key} of {self.settings_file}"
                raise ConfigError(error.problems, source, COPY_AGAIN) from None
        if config is not None and self.stated is not None:
            return config
        from engram.checkpoints.read.memory_tensors import config_of_release

        return config_of_release(self.released, config)

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

    @property
    def table_form(self) -> str:
        """The dtype that its tables are stored in."""
        return str(self.stored_config.table_dtype)

    @property
    def settings_file(self) -> str:
        """The file with its settings, for messages."""
        return self.where if self.stated is not None else f"{self.folder}/{MEMORY_FILE}"

    @cached_property
    def addresses(self) -> Addresses:
        """The constants that are stored, without their token map; see `settings`.

        Raises:
            CorruptFileError: Something is missing, or of another type.
            LayoutError: The memory's layout is unknown.
            MismatchError: They are not those of their fingerprint, or of the config.
        """
        from engram.addressing.addresses import Addresses
        from engram.addressing.same_memory import check_outline

        addresses = Addresses.from_dict(self.settings["addresses"], self.settings_file)
        if self.stated is not None:
            check_outline(addresses, self.config, self.settings_file)
        return addresses

    @property
    def layers_path(self) -> str:
        """Dotted name of the list of layers of the model that a memory was attached to."""
        return str(self.settings["layers_path"])

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
        from engram.checkpoints.read.memory_tensors import attached_layers, layers_of_release

        if self.stated is None:
            return layers_of_release(self.released, self.config)
        self.demand_settings()
        self.files.demand_whole()
        return attached_layers(self.files, self.config, self.addresses, self.layers_path)

    def load_tokenizer(self) -> TokenizerFile:
        """Read its tokenizer: the one beside its files, here or on the hub, unless it has another.

        Raises:
            MissingFileError: There is none.
        """
        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer)
        return load_tokenizer(self.folder or self.name, self.revision)

    def check(self, addresses: Addresses) -> None:
        """Compare everything that is stored about addresses with those that were computed.

        Raises:
            MismatchError: They differ: it is another tokenizer, or another config.
        """
        from engram.checkpoints.read.memory_tensors import check_constants

        if self.settings:
            addresses.check(self.addresses.to_dict(), self.settings_file)
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
            MismatchError: It is another tokenizer, or another config; or the constants that are
                stored are not those of their config.
        """
        from engram.addressing.addresses import Addresses
        from engram.addressing.same_memory import check_config, check_tokenizer
        from engram.addressing.tokenizer import EngramTokenizer

        if self.settings:
            check_config(self.addresses, self.config, self.settings_file)
            if tokenizer is not None and self.addresses.map_sha256 is not None:
                check_tokenizer(self.addresses, tokenizer)
            return self.addresses
        is_raw = self.config.rules.hashes == "raw"
        made = (
            Addresses.from_config(self.config, None)
            if is_raw
            else EngramTokenizer(self.config, tokenizer or self.load_tokenizer()).addresses
        )
        self.check(made)
        return made
