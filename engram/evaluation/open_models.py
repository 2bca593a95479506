"""Opens what is evaluated: a model with its memory, and the models that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from engram.addressing.addresses import Addresses
from engram.addressing.same_memory import map_of
from engram.addressing.tokenizer_files import TokenizerFile, describe_tokenizer
from engram.arguments import checked
from engram.checkpoints.read.attached_files import CONTROL_FILE, TRAINING_FILE
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.load_checkpoint import load
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.config.engram_config import EngramConfig
from engram.errors import LayoutError, MismatchError, UsageError
from engram.hf.admission import of_the_base
from engram.storage.json_files import OBJECT, read_json

Tables = Literal["ram", "disk"]


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model with a memory, ready to be read.

    Attributes:
        name: Its name, as it was given; of an adapter the adapter's.
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        addresses: Constants of its memory, with the token map.
        config: Its memory.
        training: Numbers of the run that trained it, as ``engram train --json`` prints them; None
            where it was not trained here.
    """

    name: str
    model: Any
    tokenizer: TokenizerFile
    addresses: Addresses
    config: EngramConfig
    training: dict[str, Any] | None

    @property
    def base_was_trained(self) -> bool:
        """Whether the run that trained the memory changed weights of the base, too."""
        options = (self.training or {}).get("options", {})
        return bool(options.get("train", "memory") != "memory")


@checked()
def open_model(
    model: str | Path,
    adapter: str | Path | None = None,
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    tables: Tables = "ram",
    device: str | torch.device | None = None,
) -> OpenModel:
    """Load a model with its memory.

    Args:
        model: An attached folder or hub id; with an adapter, its base.
        adapter: A memory by itself, that lies beside its base.
        tokenizer: The model's tokenizer, in any form that `describe_tokenizer` knows; its own when
            None.
        revision: Branch, tag or commit of the model on the hub.
        trust_remote_code: Run the code beside the weights, where the base is defined there.
        tables: Place of the tables, see `engram.load`.
        device: Device of the model; a GPU where there is one, when None.

    Returns:
        The model and what belongs to it.

    Raises:
        EngramError: It cannot be loaded; see `engram.load`.
        MismatchError: The tokenizer is another one than the memory was made for.
    """
    loaded = load(
        model,
        adapter,
        revision=revision,
        trust_remote_code=trust_remote_code,
        tables=tables,
    )
    name = model if adapter is None else adapter
    opened = open_checkpoint(name, None if adapter is not None else revision, short_names=True)
    file = _tokenizer_of(opened, model, revision) if tokenizer is None else None
    file = describe_tokenizer(tokenizer) if file is None else file
    addresses = opened.addresses_with(file)
    if addresses.map_sha256 is not None:
        addresses = addresses.with_map(map_of(addresses, file))
    folder = opened.folder
    stated = None if folder is None else folder / TRAINING_FILE
    return OpenModel(
        name=str(name),
        model=loaded.to(_device(device)),
        tokenizer=file,
        addresses=addresses,
        config=opened.stored_config,
        training=read_json(stated, OBJECT) if stated is not None and stated.is_file() else None,
    )


@checked()
def open_compared(
    path: str | Path,
    subject: OpenModel,
    *,
    trust_remote_code: bool = False,
    tables: Tables = "ram",
) -> Any:
    """Load a model that is compared with another one on the same tokens.

    Args:
        path: An attached folder, a dense control that `engram train` wrote, or a base model.
        subject: The model that it is compared with.
        trust_remote_code: Run the code beside the weights.
        tables: Place of its tables, see `engram.load`.

    Returns:
        The model, in evaluation mode, on the device of the other.

    Raises:
        EngramError: It cannot be loaded.
        LayoutError: It is an adapter.
        MismatchError: It reads other token ids.
    """
    folder = Path(path)
    device = subject.model.device
    if (folder / CONTROL_FILE).is_file():
        from engram.training.dense_control import load_control

        # Of its base, whose tokenizer it shares.
        return load_control(folder).to(device)
    opened = _open_whole(path)
    _demand_same_tokens(path, opened, subject)
    if opened.stated is not None:
        model = load(path, trust_remote_code=trust_remote_code, tables=tables)
        return model.to(device)
    from transformers import AutoModelForCausalLM

    with of_the_base(folder, "load"):
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype="auto", trust_remote_code=trust_remote_code
        )
    return model.eval().to(device)


def find_others(
    base: str | Path | None, against: Sequence[str | Path], taken: set[str]
) -> dict[str, str | Path]:
    """Name the models beside a memory, and see that each is there before anything is read.

    Args:
        base: Another base, if one was named.
        against: The models that it is compared with.
        taken: Names that are in use, beside ``base``.

    Returns:
        Path of each by the name of its run: ``base`` first, if it was named.

    Raises:
        UsageError: Two paths are the same.
        LayoutError: One is an adapter.
        EngramError: There is no model, see `open_checkpoint`.
    """
    others: dict[str, str | Path] = {} if base is None else {"base": base}
    others |= dict(zip(name_runs(against, {*taken, "base"}), against, strict=True))
    for path in others.values():
        if not (Path(path) / CONTROL_FILE).is_file():
            _open_whole(path)
    return others


def name_runs(given: Sequence[str | Path], taken: set[str]) -> list[str]:
    """Give every compared model a name of its own: the last part of its path.

    Args:
        given: The paths.
        taken: Names that are in use.

    Raises:
        UsageError: Two paths are the same.
    """
    names: list[str] = []
    paths = [Path(path) for path in given]
    for path in paths:
        parts = path.absolute().parts
        ends = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
        name = next((end for end in ends if end not in taken and end not in names), None)
        if name is None or paths.count(path) > 1:
            raise UsageError(f"{path} is given twice.", "Name it once.", path=str(path))
        names.append(name)
    return names


def _open_whole(path: str | Path) -> Checkpoint:
    """Open what a model can be loaded from by itself."""
    opened = open_checkpoint(path, short_names=True)
    if opened.adapter:
        raise LayoutError(
            f"{path} is an adapter: a memory without its base.",
            "Compare with an attached folder: engram attach, or engram train without --adapter.",
            path=str(path),
        )
    return opened


def _demand_same_tokens(path: str | Path, opened: Checkpoint, subject: OpenModel) -> None:
    found = opened.load_tokenizer()
    if found.digest != subject.tokenizer.digest:
        raise MismatchError(
            f"{path} has another tokenizer than {subject.name}: their losses are of other tokens.",
            "Compare models of one tokenizer.",
            path=str(path),
        )


def _tokenizer_of(opened: Checkpoint, base: str | Path, revision: str | None) -> TokenizerFile:
    """Read a checkpoint's tokenizer; of an adapter, its base's."""
    if opened.adapter:
        return open_checkpoint(base, revision, short_names=True).load_tokenizer()
    return opened.load_tokenizer()


def _device(device: str | torch.device | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
