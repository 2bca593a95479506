"""Converts memories: other dtypes, other names; streamed, and the folder appears whole or not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.checkpoints.attach.apart import demand_apart
from engram.checkpoints.attach.attach import (
    check_room,
    counted,
    place_file,
)
from engram.checkpoints.attach.attach import write as write_attached
from engram.checkpoints.attach.own_files import own_files as attached_files
from engram.checkpoints.convert.conversion import (
    ATTACHED,
    Conversion,
    rewritten,
    to_base,
    to_published,
)
from engram.checkpoints.convert.publish import (
    check_expressible,
)
from engram.checkpoints.read.attached_files import CONFIG_FILE, MEMORY_FILE
from engram.checkpoints.read.model_folder import resolve_model
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.config.engram_config import EngramConfig
from engram.errors import EngramError, UsageError
from engram.storage.files import Progress, write_json
from engram.storage.folders import check_folder, new_folder
from engram.storage.json_files import read_json
from engram.storage.safetensors_headers import INDEX_FILE, read_weight_map
from engram.storage.safetensors_writer import write_shard

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile


def plan(
    source: str | Path,
    output: Path,
    to: str = ATTACHED,
    *,
    dtype: str | None = None,
    base: str | Path | None = None,
    config: EngramConfig | None = None,
    tokenizer: TokenizerFile | None = None,
    link: bool = False,
    trust_remote_code: bool = False,
) -> Conversion:
    """Work out what `write` would write, from headers alone.

    Args:
        source: An attached folder, an adapter, or a folder or file with published names.
        output: The folder to appear.
        to: ``attached``: our own format; or the layout whose published names are to be used.
        dtype: What tables are stored as: a float, fp8 or int8; as they are when None. A float is
            also what the rest of the memory is stored as; it keeps its dtype beside quantised
            tables.
        base: The model to attach to, for published names.
        config: The memory, where the files do not state it.
        tokenizer: The base's; the one in its folder when None.
        link: Hard-link files of the base instead of copying them.
        trust_remote_code: Run the code in the base's folder, where its model is defined there.

    Raises:
        EngramError: Whatever does not fit, with the reason.
    """
    demand_apart(output, Path(source))
    memory = open_checkpoint(Path(source), config=config)
    stored = memory.stored_config
    dtype = stored.stored_dtype(asked=dtype).name
    if to != ATTACHED:
        check_expressible(stored, to, dtype)
        _refuse_base(base, f"--to {to} writes the memory alone")
        return to_published(memory, output, to, dtype, tokenizer)
    if memory.stated is None:
        if base is None:
            raise UsageError(
                f"{source} holds a memory alone: attaching it needs the model that it is for.",
                "Name it: --base MODEL",
            )
        folder = resolve_model(base, trust_remote_code=trust_remote_code)
        demand_apart(output, folder)
        return to_base(memory, output, dtype, folder, tokenizer, link, trust_remote_code)
    _refuse_base(base, f"{source} is attached to its base already")
    return rewritten(memory, output, dtype, tokenizer, link)


def check_output(made: Conversion, *, overwrite: bool = False) -> None:
    """Refuse what `write` would refuse before it writes anything; see there."""
    check_folder(made.output, own_files, overwrite)
    check_room(made.output, made.written_bytes)


def write(made: Conversion, *, overwrite: bool = False, progress: Progress | None = None) -> None:
    """Write the folder, whole or not at all; its index last.

    Args:
        made: What to write.
        overwrite: Replace a folder that this toolkit wrote.
        progress: Told the bytes written so far.

    Raises:
        InputError: Something is at the output that may not be replaced, or values do not fit their
            new dtype.
        DoesNotFitError: The disk has too little room.
    """
    if made.attach_plan is not None:
        write_attached(made.attach_plan, overwrite=overwrite, progress=progress)
        return
    step = counted(progress, made.written_bytes)
    with new_folder(made.output, own_files, overwrite) as folder:
        check_room(made.output, made.written_bytes)
        for path in made.kept:
            place_file(path, folder / path.name, made.link)
            step(0 if made.link else path.stat().st_size, None)
        for path in made.others:
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, folder / path.name)
        for name, shard in made.shards:
            write_shard(folder / name, shard, step)
        for name, text in made.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        write_json(folder / INDEX_FILE, _index(made))


def own_files(folder: Path) -> set[str] | None:
    """Name what converting or attaching wrote into a folder; None when neither did."""
    attached = attached_files(folder)
    if attached is not None:
        return attached
    try:
        stated = read_json(folder / MEMORY_FILE)
        shards = read_weight_map(folder / INDEX_FILE).values()
        return {*shards, INDEX_FILE, CONFIG_FILE, MEMORY_FILE} if "config" in stated else None
    except (EngramError, OSError):
        return None


def _index(made: Conversion) -> dict[str, Any]:
    new = {tensor.name: name for name, shard in made.shards for tensor in shard}
    kept = {
        name: info.path.name for name, info in made.source.tensors.items() if info.path in made.kept
    }
    total_bytes = sum(tensor.size_bytes for _, shard in made.shards for tensor in shard)
    total_bytes += sum(
        info.stop - info.start for info in made.source.tensors.values() if info.path in made.kept
    )
    return {"metadata": {"total_size": total_bytes}, "weight_map": {**kept, **new}}


def _refuse_base(base: str | Path | None, why: str) -> None:
    if base is not None:
        raise UsageError(f"{why}: leave --base out.")
