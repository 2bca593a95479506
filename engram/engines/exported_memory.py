"""The memory that is exported: a checkpoint's, or the one that a config and a tokenizer make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engram.addressing.addresses import Addresses
from engram.addressing.tokenizer_files import TokenizerFile, load_tokenizer
from engram.checkpoints.published.recognise import is_hub_id
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.complete_addresses import complete_addresses
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.config.engram_config import EngramConfig
from engram.config.templates import CONFIG_SUFFIXES, given_config, is_template, load_config
from engram.errors import MissingFileError, UsageError
from engram.storage.file_names import refuse_empty


@dataclass(frozen=True, eq=False)
class ExportedMemory:
    """A memory whose constants are complete.

    Attributes:
        name: The target, as it was named.
        config: The memory.
        addresses: Its constants, with their token map.
        tokenizer: Its tokenizer; None where there is none and none is needed.
        checkpoint: The files with its tables; None of a config.
    """

    name: str
    config: EngramConfig
    addresses: Addresses
    tokenizer: TokenizerFile | None
    checkpoint: Checkpoint | None

    @property
    def pad_id(self) -> int | None:
        """Token id of the pad; None where nothing states it."""
        pad = self.config.pad_id
        if pad is None:
            return None if self.tokenizer is None else self.tokenizer.pad_id
        if isinstance(pad, int):
            return pad
        found: int | None = (
            None if self.tokenizer is None else self.tokenizer.tokenizer.token_to_id(pad)
        )
        return found

    @property
    def eos_id(self) -> int | None:
        """Token id that ends a text; None where nothing states it."""
        if self.config.eos_id is not None or self.tokenizer is None:
            return self.config.eos_id
        return self.tokenizer.eos_id

    def compressed_id(self, token_id: int | None) -> int | None:
        """The compressed id of a token; None without a token map."""
        token_map = self.addresses.token_map
        if token_id is None or token_map is None or not 0 <= token_id < len(token_map):
            return None
        return int(token_map[token_id])


def find_exported(
    target: str | Path,
    config: str | Path | EngramConfig | None = None,
    tokenizer: str | Path | None = None,
) -> ExportedMemory:
    """Find the memory that a target means.

    Args:
        target: A config file or a template's name; or an attached folder, an adapter, a folder or
            safetensors file with published names, or the hub id of one.
        config: The memory, or its config file, where a checkpoint does not state it.
        tokenizer: Name or path of the tokenizer; the target's own when None.

    Raises:
        MissingFileError: There is no such target, or a tokenizer is needed and is not there.
        InputError: The target has no memory, or no tokenizer is named.
        MismatchError: The tokenizer is another one than the memory was made with.
        UsageError: A config was given for a target that is or states one.
    """
    refuse_empty(target, "the target")
    path = Path(target)
    is_named = is_template(target) or (path.suffix in CONFIG_SUFFIXES and not path.is_dir())
    if is_named or not (path.exists() or is_hub_id(str(target))):
        if config is not None:
            raise UsageError(f"{target} is a config itself: leave -c (in Python, config) out.")
        return _of_config(str(target), load_config(target), tokenizer)
    given = None if config is None else given_config(config)
    return _of_checkpoint(str(target), open_checkpoint(target, config=given), tokenizer)


def _of_config(name: str, config: EngramConfig, tokenizer: str | Path | None) -> ExportedMemory:
    if config.rules.hashes == "raw" and tokenizer is None:
        return ExportedMemory(name, config, Addresses.from_config(config, None), None, None)
    from engram.corpus.hash.hash_text import find_memory

    config, file, addresses = find_memory(config, tokenizer)
    return ExportedMemory(name, config, addresses, file, None)


def _of_checkpoint(name: str, memory: Checkpoint, tokenizer: str | Path | None) -> ExportedMemory:
    config, file = memory.config, None if tokenizer is None else load_tokenizer(tokenizer)
    is_attached = memory.stated is not None  # such files hold the token map itself
    if file is None:
        needs_one = config.rules.hashes == "compressed" and not is_attached
        file = _own_tokenizer(memory, needs_one)
    if is_attached:
        memory.demand_settings()
        memory.files.demand_whole()
    addresses = complete_addresses(memory, file)
    return ExportedMemory(name, config, addresses, file, memory)


def _own_tokenizer(memory: Checkpoint, is_needed: bool) -> TokenizerFile | None:
    """Read the tokenizer beside the files; one that is not there matters only if it is needed."""
    try:
        return memory.load_tokenizer()
    except MissingFileError as error:
        if not is_needed:
            return None
        raise MissingFileError(
            f"{memory.name} has no tokenizer.json, and the token map follows from the tokenizer.",
            "Name the model's tokenizer: -t TOKENIZER (in Python, tokenizer=TOKENIZER)",
            path=memory.name,
        ) from error
