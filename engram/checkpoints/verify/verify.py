"""`verify`: whether a checkpoint's memory is wired right, with all of its checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engram.addressing.tokenizer_files import load_tokenizer
from engram.checkpoints.verify import verify_checkpoint
from engram.checks import Check, Checks
from engram.config.templates import template_names
from engram.errors import MissingFileError


def verify(
    target: str | Path,
    *,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    headers_only: bool = False,
    full: bool = False,
    trust_remote_code: bool = False,
    on_check: Callable[[Check], None] | None = None,
) -> Checks:
    """Check a checkpoint's memory: files, constants, tensors, and how the model runs with it.

    A memory that was attached is given random weights in RAM, and the logits of cached, chunked and
    left-padded runs are compared with those of a full one. Of released checkpoints headers and
    constants are read. A check that could not run does not fail.

    Args:
        target: An attached checkpoint, an adapter, or a released checkpoint: a folder, a lone
            safetensors file, or a hub id.
        tokenizer: Folder, tokenizer.json or hub id; the checkpoint's own when None.
        revision: Branch, tag or commit on the hub.
        headers_only: Load no model: check files, names and constants.
        full: Read every weight file and compare its sha256, where attach recorded them.
        trust_remote_code: Run the code beside the weights, where the base is defined there.
        on_check: Called with each check as soon as it is done.

    Returns:
        The checks; `ok` is the verdict, `to_dict()` is what ``engram verify --json`` prints.

    Raises:
        MissingFileError: There is no such checkpoint or tokenizer.
        MissingError: A package that loading needs is missing, or in a version that does not work.
        InputError: It has no memory.

    Examples:
        >>> import engram
        >>> engram.verify("attached", headers_only=True).ok
        True
    """
    name = str(target)
    if name in template_names() and not Path(target).exists():
        raise MissingFileError(
            f"{name} is a template, and no folder here: verify takes a checkpoint.",
            f"engram report {name} tells what the template holds.",
            target=name,
        )
    if tokenizer is not None:
        load_tokenizer(tokenizer)  # a wrong name is told at once, not as a check that was left out
    checks = []
    for check in verify_checkpoint.verify(
        target,
        weights=not headers_only,
        full=full,
        tokenizer=None if tokenizer is None else str(tokenizer),
        revision=revision,
        trust_remote_code=trust_remote_code,
    ):
        checks.append(check)
        if on_check is not None:
            on_check(check)
    return Checks({"schema": "engram.verify/1", "target": name}, tuple(checks))
