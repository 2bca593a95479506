"""Finds the attached folder that a run starts from; a base without a memory gets one first."""

import shutil
from pathlib import Path

from engram.checkpoints.attach.attach import attach
from engram.checkpoints.read.model_folder import resolve_model
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.config.engram_config import EngramConfig
from engram.config.init import Init
from engram.errors import LayoutError, UsageError
from engram.sizing.size_options import SizeOptions
from engram.training.memory_folder import Origin, read_origin
from engram.training.new_base import NewBase, write_new_base
from engram.training.run_folder import RunFolder


def find_start(
    model: str | Path | NewBase,
    place: RunFolder,
    config: str | Path | EngramConfig | SizeOptions | None,
    init: Init,
    *,
    revision: str | None,
    trust_remote_code: bool,
) -> Origin:
    """Find or make the attached folder that a run starts from; a collective.

    Args:
        model: An attached folder, or a base, or the description of one with random weights.
        place: The run's folder, where a new attached folder is put.
        config: The memory of a base without one.
        init: Its start.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether code of the base may run.

    Raises:
        LayoutError: It is an adapter.
        UsageError: A config is given, and the model has a memory.
    """
    if isinstance(model, NewBase):
        with place.first_does() as is_first:
            if is_first and not place.start.is_dir():
                shutil.rmtree(place.base, ignore_errors=True)
                base = write_new_base(model, place.base)
                attach(base, config, place.start, init=init, link=True)
                shutil.rmtree(base)
        return read_origin(open_checkpoint(place.start), place.start, name=model.name)
    opened = open_checkpoint(model, revision, short_names=True)
    if opened.adapter:
        raise LayoutError(
            f"{model} is an adapter: a memory without its base.",
            f"Give the base, {opened.adapter['base']['name']}, or an attached folder.",
            model=str(model),
        )
    if opened.stated is None:
        with place.first_does() as is_first:
            if is_first and not place.start.is_dir():
                attach(
                    model,
                    config,
                    place.start,
                    init=init,
                    link=_is_on_disk_of(model, place.folder),
                    revision=revision,
                    trust_remote_code=trust_remote_code,
                )
        base = resolve_model(model, revision, trust_remote_code=trust_remote_code)
        return read_origin(open_checkpoint(place.start), place.start, base)
    if config is not None:
        raise UsageError(
            f"{model} has a memory; a config is for a base without one.", "Leave -c out."
        )
    opened = opened.downloaded(trust_remote_code=trust_remote_code)
    folder = Path(opened.path or model)
    opened.demand_settings()
    return read_origin(opened, folder)


def _is_on_disk_of(model: str | Path, folder: Path) -> bool:
    """Whether a base lies in a folder on the disk of another one, where its files can be linked."""
    there = next(it for it in folder.absolute().parents if it.exists())
    return Path(model).is_dir() and Path(model).stat().st_dev == there.stat().st_dev
