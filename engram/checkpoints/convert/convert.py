"""`convert`: a memory in another dtype, under the names of a published layout, or back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.addressing.tokenizer_files import describe_tokenizer
from engram.checkpoints.convert.conversion import ATTACHED, Conversion
from engram.checkpoints.convert.convert_memory import check_output, write
from engram.checkpoints.convert.convert_memory import plan as plan_convert
from engram.config.engram_config import EngramConfig
from engram.config.templates import given_config
from engram.storage.files import Progress

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile


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
            rest of the memory, too.
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
        EngramError: Whatever does not fit, with the reason.

    Examples:
        >>> import engram
        >>> engram.convert("attached", "small", dtype="int8").plan.config.table_dtype
        'int8'
    """
    made = plan_convert(
        source,
        Path(output),
        to,
        dtype=dtype,
        base=base,
        config=None if config is None else given_config(config),
        tokenizer=None if tokenizer is None else describe_tokenizer(tokenizer),
        link=link,
        trust_remote_code=trust_remote_code,
    )
    return run_convert(made, str(source), overwrite=overwrite, dry_run=dry_run, progress=progress)


def run_convert(
    made: Conversion,
    source: str,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Do what `plan_convert` worked out; see `convert`."""
    if dry_run:
        check_output(made, overwrite=overwrite)
    else:
        write(made, overwrite=overwrite, progress=progress)
    return Converted(source, made, not dry_run)
