"""Attaches a memory to a checkpoint: base files as they are, new shards beside them, index last."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from engram.addressing.tokenizer_files import TokenizerFile, describe_tokenizer
from engram.arguments import checked
from engram.backbone.quantisation import check_packages
from engram.checkpoints.attach.attach_plan import Attached, AttachPlan
from engram.checkpoints.attach.begun_folder import BegunFolder, begin
from engram.checkpoints.attach.folder_plan import MAX_SHARD_BYTES
from engram.checkpoints.attach.initial_values import first_values
from engram.checkpoints.attach.new_memory import describe_attachment
from engram.checkpoints.attach.own_files import own_files
from engram.checkpoints.attach.proof import check_loads, max_logit_difference
from engram.checkpoints.read.attached_files import ADAPTER_FILE, CARD_FILE, CONFIG_FILE
from engram.checkpoints.read.base_checkpoint import BaseCheckpoint, read_base
from engram.checkpoints.read.digests import DIGESTS, Digests
from engram.checkpoints.read.joined_adapter import adapter_settings
from engram.checkpoints.read.memory_tensors import expected_tensors
from engram.checkpoints.read.model_folder import resolve_model
from engram.config.config_file import dump_config
from engram.config.engram_config import EngramConfig
from engram.config.init import Init
from engram.config.table_dtype import TableDtype
from engram.config.templates import given_config
from engram.errors import EngramError, UsageError
from engram.layouts import get_layout
from engram.sizing.size import size
from engram.sizing.size_options import SizeOptions
from engram.storage.files import Progress, sha256_of, write_json
from engram.storage.folders import check_folder, demand_apart
from engram.storage.safetensors_writer import plan_shards
from engram.storage.staging import leftovers

CONFIG_YAML = "memory.yaml"


@checked()
def attach(
    model: str | Path,
    config: str | Path | EngramConfig | SizeOptions | None,
    output: str | Path,
    *,
    tokenizer: str | Path | TokenizerFile | None = None,
    init: Init = "identity",
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
    as a stream. What does not fit is refused, from headers alone.

    Args:
        model: Hugging Face folder or hub id of the base.
        config: The memory: a config, its file, or the name of a template; or what `engram.size`
            takes to size one for the base, a quarter of the whole when None. The config that it
            finds is written into the folder as memory.yaml.
        output: The folder to appear.
        tokenizer: The model's tokenizer, or its name or path; the one in its folder when None.
        init: "identity" and "zero-table" leave the model's output as it was, with a value
            projection of zeros or a table of zeros; "paper" starts as the paper trains.
        dtype: dtype of the tables, see `engram.config.table_dtype`; the config's, or the base's
            own, when None. What lies around quantised tables (fp8, int8) is bfloat16.
        link: Hard-link the base's weight files instead of copying them.
        adapter: Write the memory alone; `engram.load(base, adapter)` joins the two.
        digests: Record the sha256 of every weight file, which `verify` compares when asked to; that
            of small files is always recorded.
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
        UsageError: An adapter, or what is not written, cannot be compared with its base.

    Examples:
        >>> import engram
        >>> engram.attach("model", "memory.yaml", "attached").plan.added_params > 0
        True
    """
    if verify:
        _demand_comparable(adapter=adapter, dry_run=dry_run)
    output = Path(output)
    asked = SizeOptions() if config is None else config
    if not isinstance(asked, SizeOptions):
        asked = given_config(asked)
    own = None if tokenizer is None else describe_tokenizer(tokenizer)
    removed = tuple(leftovers(output))
    begun: BegunFolder | None = None
    with ExitStack() as stack:
        # Digests are taken in the order of the bytes.
        if not (dry_run or digests) and Path(model).is_dir():
            with suppress(EngramError, OSError):  # which the checks below tell in their order
                base, memory, stored = _read(model, resolve_model(model), asked, output, own, dtype)
                kinds = {"link": link, "adapter": adapter, "overwrite": overwrite}
                if found := begin(base, memory, output, own, stored, init, **kinds):
                    begun = stack.enter_context(found)
        from engram.hf import compat

        compat.check()
        folder = resolve_model(model, revision, trust_remote_code=trust_remote_code)
        if begun is None:
            base, memory, stored = _read(model, folder, asked, output, own, dtype)
        plan = describe_attachment(base, memory, output, own, trust_remote_code, adapter=adapter)
        if isinstance(asked, SizeOptions):
            text = dump_config(plan.config, title=f"Sized for {base.name}")
            plan = replace(plan, texts={**plan.texts, CONFIG_YAML: text})
        tensors = expected_tensors(plan.config, stored, plan.addresses, plan.layers_path)
        check_loads(folder, plan.classes, plan.model_config, base.tensors | tensors)
        shards = plan_shards(first_values(plan, tensors, stored, init), MAX_SHARD_BYTES)
        plan = replace(plan, shards=shards, link=link, digests=digests)
        attached = Attached(plan, stored, not dry_run, removed)
        if dry_run:
            check_folder(output, own_files, overwrite)
            plan.check_room()
        else:
            if verify and base.quantisation:  # at once, not after the whole was written
                check_packages(base.quantisation)
            write(plan, overwrite=overwrite, progress=progress, begun=begun)
    if on_written is not None:
        on_written(attached)
    if not verify:
        return attached
    difference = max_logit_difference(folder, output, trust_remote_code)
    return replace(attached, max_logit_difference=difference)


def _demand_comparable(*, adapter: bool, dry_run: bool) -> None:
    if adapter:
        raise UsageError(
            "--verify compares whole folders; it does not go with --adapter.",
            "Leave one of them out; engram verify FOLDER checks an adapter's files.",
        )
    if dry_run:
        raise UsageError(
            "--verify loads the folder that is written; it does not go with --dry-run.",
            "Leave one of them out.",
        )


def write(
    plan: AttachPlan,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    resume: bool | None = None,
    begun: BegunFolder | None = None,
) -> None:
    """Write an attached folder, whole or not at all.

    Args:
        plan: What to write.
        overwrite: Replace an attached folder that is there. Nothing else is ever replaced.
        progress: Told the bytes written so far.
        resume: See `FolderPlan.new_folder`.
        begun: The folder, where its writing has begun; it is written anew if its weights are not
            those of the plan.

    Raises:
        InputError: Something is at the output that may not be replaced.
        DoesNotFitError: The disk has too little room.
    """
    weights: dict[str, str] | None = {} if plan.digests else None
    if begun is not None and begun.is_begun_for(plan):
        made = begun.finished(plan, progress)
    else:
        if begun is not None:
            begun.discard()
        made = plan.new_folder(own_files, overwrite, progress, weights, resume)
    with made as folder:
        # Of all small files that are to stay as they are, and so not the card, which people edit.
        kept = sorted({*plan.texts, *plan.copies} - {CARD_FILE})
        recorded: Digests = {"small_files": {name: sha256_of(folder / name) for name in kept}}
        if weights is not None:
            recorded["weight_files"] = weights
        config = {**plan.model_config, "engram": {**plan.model_config["engram"], DIGESTS: recorded}}
        name = CONFIG_FILE
        if plan.adapter:
            name = ADAPTER_FILE
            config = adapter_settings(plan.base, config)
        write_json(folder / name, config)


def _read(
    model: str | Path,
    folder: Path,
    asked: EngramConfig | SizeOptions,
    output: Path,
    own: TokenizerFile | None,
    dtype: str | None,
) -> tuple[BaseCheckpoint, EngramConfig, TableDtype]:
    """Read the base, and settle the memory and its dtype; without transformers."""
    demand_apart(output, folder)
    base = read_base(folder, name="" if Path(model).is_dir() else str(model))
    memory = _sized(folder, asked, own, dtype) if isinstance(asked, SizeOptions) else asked
    stored = memory.stored_dtype(base.dtype, dtype)
    return base, replace(memory, table_dtype=stored.name), stored


def _sized(
    folder: Path, asked: SizeOptions, own: TokenizerFile | None, dtype: str | None
) -> EngramConfig:
    """Size a memory for a base, with the tokenizer and in the dtype that it is attached with."""
    if own is not None and asked.vocab is None and get_layout(asked.layout).hashes == "compressed":
        asked = replace(asked, vocab=own.vocab_size)
    return size(folder, asked if dtype is None else replace(asked, dtype=dtype)).config
