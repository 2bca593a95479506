"""`convert`: a memory in another dtype, under the names of a layout or an engine, or back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.addressing.tokenizer_files import TokenizerFile, describe_tokenizer
from engram.arguments import checked
from engram.checkpoints.attach.attach import write
from engram.checkpoints.attach.own_files import own_files as attached_files
from engram.checkpoints.convert.conversion import (
    ATTACHED,
    Conversion,
    rewritten,
    to_base,
    to_published,
)
from engram.checkpoints.convert.expressible import check_expressible
from engram.checkpoints.convert.gguf_conversion import GgufConversion
from engram.checkpoints.convert.gguf_source import GgufSource
from engram.checkpoints.convert.gguf_target import plan_gguf
from engram.checkpoints.convert.memory_files import memory_files
from engram.checkpoints.gguf.gguf_memory import holds_gguf, open_gguf
from engram.checkpoints.read.attached_files import CONFIG_FILE, MEMORY_FILE
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.model_folder import resolve_model
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.config.engram_config import EngramConfig
from engram.config.templates import given_config
from engram.errors import EngramError, UsageError
from engram.layouts.gguf_dialects import WRITTEN_DIALECTS
from engram.storage.dtypes import Q8_0, gguf_dtype_name
from engram.storage.file_names import refuse_empty
from engram.storage.files import Progress
from engram.storage.folders import check_folder, demand_apart
from engram.storage.json_files import read_json
from engram.storage.safetensors_headers import INDEX_FILE, read_weight_map
from engram.storage.unfinished import clean_unfinished


@dataclass(frozen=True, repr=False)
class Converted:
    """Result of `convert`.

    Attributes:
        source: The name of the memory that was read.
        plan: The files, and how far values moved by layer and part.
        written: Whether the folder was written, and not only planned.
    """

    source: str
    plan: Conversion | GgufConversion
    written: bool

    def __repr__(self) -> str:
        return f"<Converted {self.source} to {self.plan.output}: {self.plan.dtypes[1]}>"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram convert --json`` prints."""
        plan = self.plan
        return {
            "schema": "engram.convert/1",
            "source": self.source,
            "output": str(plan.output),
            "to": plan.to,
            "layout": plan.config.layout,
            "from_dtype": plan.dtypes[0],
            "dtype": plan.dtypes[1],
            "written": self.written,
            "written_bytes": plan.written_bytes,
            "files": plan.files(),
            "layers": [
                {
                    "layer_id": layer_id,
                    "table": vars(parts["table"]) if self.written else None,
                    "dense": vars(parts["dense"]) if self.written else None,
                }
                for layer_id, parts in plan.losses().items()
            ],
            "fingerprint": plan.addresses.fingerprint,
        }


@checked()
def convert(
    source: str | Path,
    output: str | Path,
    to: str = ATTACHED,
    *,
    dtype: str | None = None,
    base: str | Path | None = None,
    config: str | Path | EngramConfig | None = None,
    tokenizer: str | Path | TokenizerFile | None = None,
    link: bool = False,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Convert a memory: to another dtype, a published layout's names, a GGUF dialect, or back.

    Files are read and written as a stream; the base's are copied or linked, never decoded.

    Args:
        source: An attached folder, an adapter, a folder or file with published names, or GGUF.
        output: The folder to appear. For GGUF it may be a file that is named ``*.gguf``; in a
            folder there are parts, of which the first has the metadata alone.
        to: ``attached``: our own format; the layout whose published names are to be used; or a
            dialect of GGUF, see `WRITTEN_DIALECTS`.
        dtype: dtype of the tables: a float, fp8 or int8; as they are when None. A float is for the
            rest of the memory, too; it keeps its dtype beside quantised tables. For GGUF a float,
            fp8 or q8_0, for the tables alone.
        base: The model to attach to, for published names and GGUF. For dialects of GGUF the model
            in GGUF whose other tensors are to be beside the memory; that of a GGUF source when
            None.
        config: The memory, or its config file, where the checkpoint does not state it.
        tokenizer: The base's tokenizer, or its name or path; the one in its folder when None.
        link: Hard-link files of the base instead of copying them.
        trust_remote_code: Run the code in the base's folder, where its model is defined there.
        overwrite: Replace a folder that this toolkit wrote, or what an interrupted run left.
        resume: Continue a run that was interrupted.
        dry_run: Write nothing.
        progress: Told the bytes written so far and their total.

    Returns:
        The folder and the error that it introduces; `to_dict()` is what ``engram convert --json``
        prints.

    Raises:
        EngramError: Whatever does not fit, with the reason: the output, the disk, the config, the
            tokenizer, or values that the new dtype cannot hold.

    Examples:
        >>> import engram
        >>> engram.convert("attached", "small", dtype="int8").plan.config.table_dtype
        'int8'
    """
    refuse_empty(source, "the checkpoint")
    output = Path(output)
    demand_apart(output, Path(source))
    if base is not None:
        demand_apart(output, Path(base))
    if not dry_run:
        clean_unfinished(output)
    memory = _open(Path(source), config)
    for path in memory_files(memory):
        demand_apart(output, path)
    own = None if tokenizer is None else describe_tokenizer(tokenizer)
    made: Conversion | GgufConversion
    if to in WRITTEN_DIALECTS:
        if link or trust_remote_code:
            given = "--link" if link else "--trust-remote-code"
            raise UsageError(f"{given} has no meaning for {to}.", f"Leave {given} out.")
        made = plan_gguf(memory, output, WRITTEN_DIALECTS[to], dtype, base, own)
        made.check(overwrite)
        if dry_run:
            made.check_room()
        else:
            made.write(overwrite=overwrite, resume=resume, progress=progress)
        return Converted(str(source), made, not dry_run)
    if dtype is not None and gguf_dtype_name(dtype) == Q8_0:
        raise UsageError(
            f"Tables in {Q8_0} are for GGUF alone, and --to is {to}.",
            f"Use --to {' or '.join(WRITTEN_DIALECTS)}, or another dtype.",
            dtype=dtype,
        )
    dtype = memory.stored_config.stored_dtype(asked=dtype).name
    made = _to_folder(memory, output, to, dtype, base, own, link, trust_remote_code)
    if dry_run:
        check_folder(output, own_files, overwrite)
        made.check_room()
    elif made.attach_plan is not None:
        write(made.attach_plan, overwrite=overwrite, progress=progress, resume=resume)
    else:
        with made.new_folder(own_files, overwrite, progress, resume=resume):
            pass  # everything that is to be in it is planned
    return Converted(str(source), made, not dry_run)


def _open(source: Path, config: str | Path | EngramConfig | None) -> Checkpoint | GgufSource:
    stated = None if config is None else given_config(config)
    if not holds_gguf(source):
        return open_checkpoint(source, config=stated)
    if stated is not None:
        raise UsageError(f"{source} states its constants: leave -c (in Python, config) out.")
    return GgufSource(open_gguf(source))


def _to_folder(
    memory: Checkpoint | GgufSource,
    output: Path,
    to: str,
    dtype: str,
    base: str | Path | None,
    tokenizer: TokenizerFile | None,
    link: bool,
    trust_remote_code: bool,
) -> Conversion:
    is_attached = isinstance(memory, Checkpoint) and memory.stated is not None
    if to != ATTACHED:
        check_expressible(memory.stored_config, to, dtype)
    if base is not None and (to != ATTACHED or is_attached):
        alone = f"--to {to} writes the memory alone"
        why = f"{memory.name} is attached to its base already" if to == ATTACHED else alone
        raise UsageError(f"{why}: leave --base out.")
    if to != ATTACHED:
        return to_published(memory, output, dtype, tokenizer)
    if isinstance(memory, Checkpoint) and is_attached:
        return rewritten(memory, output, dtype, tokenizer, link)
    if base is None:
        raise UsageError(
            f"{memory.name} holds a memory alone: attaching it needs the model that it is for.",
            "Name it: --base MODEL",
        )
    folder = resolve_model(base, trust_remote_code=trust_remote_code)
    demand_apart(output, folder)
    return to_base(memory, output, dtype, folder, tokenizer, link, trust_remote_code)


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
