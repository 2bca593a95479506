"""Attaches a memory to a checkpoint: base files as they are, new shards beside them, index last."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engram.addressing.tokenizer_files import describe_tokenizer
from engram.backbone.quantisation import check_packages
from engram.checkpoints.attach.apart import demand_apart
from engram.checkpoints.attach.attach_plan import AttachPlan
from engram.checkpoints.attach.attached import Attached
from engram.checkpoints.attach.initial_values import first_values
from engram.checkpoints.attach.new_memory import describe_attachment
from engram.checkpoints.attach.own_files import own_files
from engram.checkpoints.attach.proof import check_loads
from engram.checkpoints.read.attached_files import (
    ADAPTER_FILE,
    CARD_FILE,
    CONFIG_FILE,
    KEPT_FOLDER,
)
from engram.checkpoints.read.base_checkpoint import read_base
from engram.checkpoints.read.digests import DIGESTS, Digests, digests_of
from engram.checkpoints.read.joined_adapter import adapter_settings
from engram.checkpoints.read.memory_tensors import expected_tensors
from engram.checkpoints.read.model_folder import resolve_model
from engram.config.engram_config import EngramConfig
from engram.config.templates import given_config
from engram.errors import DoesNotFitError, InputError, UsageError
from engram.storage.files import Progress, sha256_of, write_json
from engram.storage.folders import check_folder, new_folder, torn
from engram.storage.safetensors_headers import INDEX_FILE
from engram.storage.safetensors_writer import plan_shards, write_shard
from engram.units import format_bytes

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile

MAX_SHARD_BYTES = 5 * 10**9
_SPARE_BYTES = 64 * 2**20


def plan(
    model: str | Path,
    config: EngramConfig,
    output: Path,
    *,
    tokenizer: TokenizerFile | None = None,
    init: Literal["identity", "paper"] = "identity",
    dtype: str | None = None,
    link: bool = False,
    adapter: bool = False,
    digests: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> AttachPlan:
    """Work out what `attach` would write, from headers alone.

    Args:
        model: Hugging Face folder or hub id.
        config: The memory.
        output: The folder to appear.
        tokenizer: The model's tokenizer; the one in its folder when None.
        init: "identity" leaves the model's output as it was; "paper" starts as the paper trains.
        dtype: Dtype of the tables, see `EngramConfig.stored_dtype`: when None the config's, or the
            base's own. What lies around quantised tables (fp8, int8) is bfloat16.
        link: Hard-link the base's files instead of copying them.
        adapter: Write the memory alone; `engram.load(base, adapter)` joins the two.
        digests: Record the sha256 of every weight file, which `verify` compares when asked to; that
            of small files is always recorded.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run the code in the base's folder, where its config says that the model
            is defined there.

    Raises:
        EngramError: Whatever does not fit: the output, the files, the config, the tokenizer, the
            depth.
    """
    from engram.hf import compat

    compat.check()
    folder = resolve_model(model, revision, trust_remote_code=trust_remote_code)
    demand_apart(output, folder)
    base = read_base(folder, name="" if Path(model).is_dir() else str(model))
    config = replace(config, table_dtype=config.stored_dtype(base.dtype, dtype).name)
    made = describe_attachment(base, config, output, tokenizer, trust_remote_code, adapter=adapter)
    tensors = expected_tensors(made.config, made.addresses, made.layers_path)
    own_code = "auto_map" in made.model_config["engram"]["base"]
    check_loads(folder, made.classes, made.model_config, base.tensors | tensors, own_code=own_code)
    shards = plan_shards(first_values(made, tensors, init), MAX_SHARD_BYTES)
    return replace(made, shards=shards, link=link, digests=digests)


def attach(
    model: str | Path,
    config: str | Path | EngramConfig,
    output: str | Path,
    *,
    tokenizer: str | Path | TokenizerFile | None = None,
    init: Literal["identity", "paper"] = "identity",
    dtype: str | None = None,
    link: bool = False,
    adapter: bool = False,
    digests: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    verify: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    on_written: Callable[[Attached], None] | None = None,
) -> Attached:
    """Attach a memory to a checkpoint: a new folder that transformers loads.

    The base's weight files are copied or linked, never decoded; the memory is written beside them
    as a stream. See `plan` and `write` for more arguments and errors.

    Args:
        model: Hugging Face folder or hub id of the base.
        config: The memory: a config, its file, or the name of a template.
        output: The folder to appear.
        tokenizer: The model's tokenizer, or its name or path; the one in its folder when None.
        init: "identity" leaves the model's output as it was; "paper" starts as the paper trains.
        dtype: dtype of the tables; the config's, or the base's own, when None.
        link: Hard-link the base's files instead of copying them.
        adapter: Write the memory alone; `engram.load(base, adapter)` joins the two.
        digests: Record the sha256 of every weight file.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run the code in the base's folder, where its model is defined there.
        verify: Load both models afterwards and compare their logits.
        overwrite: Replace an attached folder that is there.
        dry_run: Write nothing.
        progress: Told the bytes written so far and their total.
        on_written: Called when the folder is there, before models are compared.

    Returns:
        The folder; `to_dict()` is what ``engram attach --json`` prints.

    Raises:
        EngramError: Whatever does not fit: the output, the files, the config, the tokenizer, the
            depth.
        UsageError: An adapter cannot be compared with its base.

    Examples:
        >>> import engram
        >>> engram.attach("model", "memory.yaml", "attached").plan.added_params > 0
        True
    """
    if verify and adapter:
        raise UsageError(
            "--verify compares whole folders; it does not go with --adapter.",
            "Leave one of them out; engram verify FOLDER checks an adapter's files.",
        )
    memory, output = given_config(config), Path(output)
    own = None if tokenizer is None else describe_tokenizer(tokenizer)
    made = plan(
        model,
        memory,
        output,
        tokenizer=own,
        init=init,
        dtype=dtype,
        link=link,
        adapter=adapter,
        digests=digests,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    if verify and not dry_run:
        check_packages(made.base.config)  # at once, not after the whole was written
    stored = memory.stored_dtype(made.base.dtype, dtype)
    attached = Attached(made, stored, not dry_run, tuple(torn(made.output)))
    if dry_run:
        check_output(made, overwrite=overwrite)
    else:
        write(made, overwrite=overwrite, progress=progress)
    if on_written is not None:
        on_written(attached)
    if not verify or dry_run:
        return attached
    from engram.checkpoints.attach.compare_logits import max_logit_difference

    difference = max_logit_difference(made.base.folder, output, trust_remote_code)
    return replace(attached, max_logit_difference=difference)


def check_output(plan: AttachPlan, *, overwrite: bool = False) -> None:
    """Refuse what `write` would refuse before it writes anything; see there."""
    check_folder(plan.output, own_files, overwrite)
    check_room(plan.output, plan.written_bytes, plan.copied)


def write(plan: AttachPlan, *, overwrite: bool = False, progress: Progress | None = None) -> None:
    """Write an attached folder, whole or not at all.

    Args:
        plan: What to write.
        overwrite: Replace an attached folder that is there. Nothing else is ever replaced.
        progress: Told the bytes written so far.

    Raises:
        InputError: Something is at the output that may not be replaced.
        DoesNotFitError: The disk has too little room.
    """
    step = counted(progress, plan.written_bytes)
    weights: dict[str, str] | None = {} if plan.digests else None
    with new_folder(plan.output, own_files, overwrite) as folder:
        check_room(plan.output, plan.written_bytes, plan.copied)
        if not plan.adapter:
            _write_base(plan, folder, step, weights)
        for name, shard in plan.shards:
            digest = hashlib.sha256()
            write_shard(folder / name, shard, step, None if weights is None else digest.update)
            if weights is not None:
                weights[name] = digest.hexdigest()
        for name, text in plan.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        small = digests_of(folder, _digested(plan))
        settings = {**plan.model_config["engram"], DIGESTS: Digests(small, weights).to_dict()}
        config = {**plan.model_config, "engram": settings}
        if plan.adapter:
            write_json(folder / ADAPTER_FILE, adapter_settings(plan.base, config))
        else:
            write_json(folder / CONFIG_FILE, config)
        write_json(folder / INDEX_FILE, _index(plan))


def counted(progress: Progress | None, total: int) -> Progress:
    """Return what tells of bytes as they are written, given only those that are new."""
    done = 0

    def step(size_bytes: int, _: int | None = None) -> None:
        nonlocal done
        done += size_bytes
        if progress is not None:
            progress(done, total)

    return step


def _digested(plan: AttachPlan) -> list[str]:
    """Name the small files that are to stay as they are: all but the card, which people edit."""
    own = [name for name in plan.texts if name != CARD_FILE]
    kept = [f"{KEPT_FOLDER}/{name}" for name in plan.base.replaced]
    return sorted(own if plan.adapter else [*own, *plan.base.sidecars, *kept])


def _write_base(
    plan: AttachPlan, folder: Path, step: Progress, weights: dict[str, str] | None
) -> None:
    for old, new in plan.base.shards.items():
        place_file(plan.base.folder / old, folder / new, plan.link)
        if weights is not None:
            weights[new] = sha256_of(folder / new)
        step(0 if plan.link else (folder / new).stat().st_size, None)
    for name in plan.base.sidecars:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(plan.base.folder / name, folder / name)
    (folder / KEPT_FOLDER).mkdir()
    for name in plan.base.replaced:
        shutil.copyfile(plan.base.folder / name, folder / KEPT_FOLDER / name)


def _index(plan: AttachPlan) -> dict[str, Any]:
    weight_map = {} if plan.adapter else dict(plan.base.weight_map)
    for name, shard in plan.shards:
        weight_map |= {tensor.name: name for tensor in shard}
    # Bytes of tensors, as transformers counts them: without the files' headers.
    total_bytes = plan.added_bytes + (0 if plan.adapter else plan.base.tensor_bytes)
    return {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}


def place_file(source: Path, target: Path, link: bool) -> None:
    """Copy a file, or hard-link it.

    Raises:
        InputError: The file cannot be linked there.
    """
    if link:
        try:
            # Resolved, because the hub's cache keeps links to its files.
            os.link(source.resolve(), target)
        except OSError as error:
            raise InputError(
                f"{source} cannot be hard-linked to {target.parent}: {error.strerror}.",
                "Attach without --link, or write to the same disk.",
                path=str(source),
            ) from None
        return
    shutil.copyfile(source, target)


def check_room(output: Path, written_bytes: int, copied: Path | None = None) -> None:
    """Refuse to write more than the disk has room for.

    Args:
        output: What is to appear.
        written_bytes: Bytes of it.
        copied: Folder whose files are copied, and could be linked; None when there is none.

    Raises:
        DoesNotFitError: It has too little.
    """
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if written_bytes + _SPARE_BYTES > free:
        hint = "Free some space, write to another disk, or make the tables smaller"
        if copied is not None and copied.stat().st_dev == parent.stat().st_dev:
            hint += ", or pass --link, which links the base's files instead of copying them"
        raise DoesNotFitError(
            f"{format_bytes(written_bytes)} are to be written to {parent}, which has "
            f"{format_bytes(free)} free.",
            f"{hint}.",
            needed_bytes=written_bytes,
            free_bytes=free,
        )
