"""`verify`: whether a checkpoint's memory is wired right, with all of its checks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from engram.addressing.tokenizer_files import load_tokenizer
from engram.arguments import checked
from engram.checkpoints.attach.proof import judge_base_weights
from engram.checkpoints.published.verify_released import verify_released
from engram.checkpoints.read.find_gguf import find_gguf
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.checkpoints.verify.checkpoint_checks import CHECKS, STATED, check_base_config
from engram.checkpoints.verify.verify_gguf import verify_gguf
from engram.checks import Check, Checks, run_check, what_happened
from engram.config.templates import template_names
from engram.errors import (
    CorruptFileError,
    EngramError,
    MissingFileError,
    MissingPackageError,
    UsageError,
)


@checked()
def verify(
    target: str | Path,
    *,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    headers_only: bool = False,
    full: bool = False,
    engine: str | None = None,
    source: str | Path | None = None,
    trust_remote_code: bool = False,
    on_check: Callable[[Check], None] | None = None,
) -> Checks:
    """Check a checkpoint's memory: files, constants, tensors, and how the model runs with it.

    A memory that was attached is given random weights in RAM, and the logits of cached, chunked and
    left-padded runs are compared with those of a full one. Of released checkpoints headers and
    constants are read, of GGUF files a few rows, too. A check that could not run does not fail. An
    attached checkpoint on the hub is downloaded to the local cache, unless headers are enough.

    Args:
        target: An attached checkpoint, an adapter, or a released checkpoint: a folder, a lone
            safetensors file, or a hub id; or a GGUF file or folder, here or on the hub
            (``organisation/name`` or ``organisation/name/file.gguf``).
        tokenizer: Folder, tokenizer.json or hub id; the checkpoint's own when None.
        revision: Branch, tag or commit on the hub.
        headers_only: Load no model: check files, names and constants.
        full: Read every weight file and compare its sha256, where attach recorded them.
        engine: Short name of an engine, such as ``ds4``: whether its loader reads a GGUF file, too.
        source: Checkpoint that a GGUF file was made from, or another GGUF file: sampled rows are
            compared with its rows.
        trust_remote_code: Run the code beside the weights, where the base is defined there.
        on_check: Called with each check as soon as it is done.

    Returns:
        The checks; `ok` is the verdict, `to_dict()` is what ``engram verify --json`` prints.

    Raises:
        MissingFileError: There is no such checkpoint or tokenizer.
        MissingError: A package that loading needs is missing, or in a version that does not work.
        InputError: It has no memory.
        UsageError: The engine is unknown, or the target is not a GGUF file.

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
    place = find_gguf(target, revision)
    given = {"--target (in Python, engine)": engine, "--source (in Python, source)": source}
    of_gguf = [flag for flag, value in given.items() if value is not None]
    if of_gguf and place is None:
        open_checkpoint(target, revision)  # what is not there is told first
        raise UsageError(f"{name} is not a GGUF file: leave {' and '.join(of_gguf)} out.")
    if place is not None:
        is_here = isinstance(place, Path)
        asked = {"--revision": revision is not None and is_here, "--full": full}
        if flags := [flag for flag, is_asked in asked.items() if is_asked]:
            raise UsageError(f"{name} is a GGUF file: leave {' and '.join(flags)} out.")
        found = verify_gguf(place, tokenizer, engine, source)
    else:
        found = _checks(target, tokenizer, revision, not headers_only, full, trust_remote_code)
    checks = []
    for check in found:
        checks.append(check)
        if on_check is not None:
            on_check(check)
    return Checks({"schema": "engram.verify/1", "target": name}, tuple(checks))


def _checks(
    target: str | Path,
    tokenizer: str | Path | None,
    revision: str | None,
    weights: bool,
    full: bool,
    trusted: bool,
) -> Iterator[Check]:
    """Yield a check at a time: of headers first, then, with weights, of how the model runs."""
    try:
        memory = replace(open_checkpoint(target, revision), tokenizer=tokenizer)
    except CorruptFileError as error:
        yield Check("settings", False, what_happened(error))
        return
    if memory.stated is None:
        try:
            stated = STATED if memory.settings else {}
        except EngramError as error:
            yield Check("settings", False, what_happened(error))
            return
        checks = {name: partial(check, memory) for name, check in stated.items()}
        yield from verify_released(memory.files, tokenizer, checks)
        return
    loads = weights and not memory.adapter
    if loads:
        for package in ("torch", "transformers"):
            if find_spec(package) is None:
                raise MissingPackageError(package, None, "Loading a model")
        if memory.path is None:
            _check_packages()  # before anything is downloaded
    if weights:
        memory = memory.downloaded(trusted)
    files = memory.files  # a hub that does not answer fails no check
    try:
        memory.demand_settings()
        files.demand_whole()
    except EngramError as error:
        yield Check("settings", False, what_happened(error))
        return
    yield Check("fingerprint", True, f"constants hash to {memory.addresses.fingerprint[:16]}...")
    for title, check in CHECKS.items():
        if full or title != "weight files":
            yield run_check(title, check, memory)
    if memory.adapter:
        alone = "an adapter runs with its base alone: engram.load(base, adapter)"
        yield Check("logits", None, alone)
        return
    claims = run_check("base config", check_base_config, memory)
    yield claims
    if loads and claims.ok:
        _check_packages()
        from engram.checkpoints.verify.behaviour import behaviour_checks

        whole = run_check("base weights", judge_base_weights, memory, trusted)
        yield whole
        if whole.ok is not False:  # beside random weights there is nothing to compare
            yield from behaviour_checks(memory, trusted)


def _check_packages() -> None:
    """Check that models can be loaded; importing torch takes seconds, which headers do not need."""
    from engram.hf import compat

    compat.check()
