"""`convert`: a memory in another dtype, under the names of a published layout, or back."""

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
from engram.checkpoints.read.attached_files import CONFIG_FILE, MEMORY_FILE
from engram.checkpoints.read.model_folder import resolve_model
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.config.engram_config import EngramConfig
from engram.config.templates import given_config
from engram.errors import EngramError, LayoutError, UsageError
from engram.layouts import get_layout
from engram.storage.dtypes import QUANTISED
from engram.storage.file_names import refuse_empty
from engram.storage.files import Progress
from engram.storage.folders import check_folder, demand_apart
from engram.storage.json_files import read_json
from engram.storage.safetensors_headers import INDEX_FILE, read_weight_map


@dataclass(frozen=True, repr=False)
class Converted:
    """Result of `convert`.

    Attributes:
        source: The name of the memory that was read.
        plan: The files, and how far values moved by layer and part.
        written: Whether the folder was written, and not only planned.
    """

    source: str
    plan: Conversion
    written: bool

    def __repr__(self) -> str:
        return f"<Converted {self.source} to {self.plan.output}: {self.plan.config.table_dtype}>"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram convert --json`` prints."""
        plan = self.plan
        return {
            "schema": "engram.convert/1",
            "source": self.source,
            "output": str(plan.output),
            "to": plan.to,
            "layout": plan.config.layout,
            "from_dtype": plan.source.stored_config.table_dtype,
            "dtype": plan.config.table_dtype,
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
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Convert a memory: to another dtype, to the names of a published layout, or back.

    Files are read and written as a stream; the base's are copied or linked, never decoded.

    Args:
        source: An attached folder, an adapter, or a folder or file with published names.
        output: The folder to appear.
        to: ``attached``: our own format; or the layout whose published names are to be used.
        dtype: dtype of the tables: a float, fp8 or int8; as they are when None. A float is for the
            rest of the memory, too; it keeps its dtype beside quantised tables.
        base: The model to attach to, for published names.
        config: The memory, or its config file, where the checkpoint does not state it.
        tokenizer: The base's tokenizer, or its name or path; the one in its folder when None.
        link: Hard-link files of the base instead of copying them.
        trust_remote_code: Run the code in the base's folder, where its model is defined there.
        overwrite: Replace a folder that this toolkit wrote.
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
    stated = None if config is None else given_config(config)
    memory = open_checkpoint(Path(source), config=stated)
    own = None if tokenizer is None else describe_tokenizer(tokenizer)
    stored = memory.stored_config
    dtype = stored.stored_dtype(asked=dtype).name
    if to != ATTACHED:
        _check_expressible(stored, to, dtype)
    if base is not None and (to != ATTACHED or memory.stated is not None):
        alone = f"--to {to} writes the memory alone"
        why = f"{source} is attached to its base already" if to == ATTACHED else alone
        raise UsageError(f"{why}: leave --base out.")
    if to != ATTACHED:
        made = to_published(memory, output, dtype, own)
    elif memory.stated is not None:
        made = rewritten(memory, output, dtype, own, link)
    elif base is None:
        raise UsageError(
            f"{source} holds a memory alone: attaching it needs the model that it is for.",
            "Name it: --base MODEL",
        )
    else:
        folder = resolve_model(base, trust_remote_code=trust_remote_code)
        demand_apart(output, folder)
        made = to_base(memory, output, dtype, folder, own, link, trust_remote_code)
    if dry_run:
        check_folder(output, own_files, overwrite)
        made.check_room()
    elif made.attach_plan is not None:
        write(made.attach_plan, overwrite=overwrite, progress=progress)
    else:
        with made.new_folder(own_files, overwrite, progress):
            pass  # everything that is to be in it is planned
    return Converted(str(source), made, not dry_run)


def _check_expressible(config: EngramConfig, to: str, dtype: str) -> None:
    """Refuse what a published format has no place for.

    Args:
        config: The memory.
        to: Layout whose names are to be used.
        dtype: dtype of the tables.

    Raises:
        LayoutError: With the reason.
    """
    layout = get_layout(to)
    if config.layout != to:
        raise LayoutError(
            f"A memory of layout {config.layout} cannot be written as {to}: {layout.apart}.",
            f"Its own names are: --to {config.layout}",
            layout=config.layout,
            to=to,
        )
    if config.ends_after_eos and not layout.ends_after_eos:
        raise LayoutError(
            f"The memory ends documents with token {config.eos_id}, which the published format of "
            f"{to} does not: whoever reads it would look rows up across documents.",
            "Write it as --to attached.",
            to=to,
            eos_id=config.eos_id,
        )
    if dtype in QUANTISED and not (dtype == "fp8" and layout.table_block):
        raise LayoutError(
            f"The published format of {to} has no tensors for {dtype} tables.",
            "Use --dtype bfloat16 or float32, or --to attached.",
            to=to,
            dtype=dtype,
        )


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
