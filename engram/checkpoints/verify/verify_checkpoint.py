"""Checks that a checkpoint's memory is wired right: from headers, and with its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engram.addressing.addresses import map_digest
from engram.addressing.tokenizer_files import load_tokenizer
from engram.backbone.claims import check_claims
from engram.checkpoints.published.verify_released import verify_released
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.digests import TOKENIZER_FILES, changed_files, read_digests
from engram.checkpoints.read.memory_tensors import expected_tensors
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.checks import Check, Verdict, first_of, run_check, what_happened
from engram.errors import (
    ConfigError,
    CorruptFileError,
    EngramError,
    MissingFileError,
    MissingPackageError,
)
from engram.storage.dtypes import FLOATS
from engram.tensor_names import OFFSETS, TOKEN_MAP
from engram.units import plural

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile


def verify(
    target: str | Path,
    *,
    weights: bool = True,
    full: bool = False,
    tokenizer: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Iterator[Check]:
    """Check a checkpoint's memory, and that an attached checkpoint's base loads whole.

    An attached checkpoint on the hub is downloaded to the local cache, unless headers are enough.

    Args:
        target: An attached checkpoint, an adapter, or a released checkpoint: a folder, a lone
            safetensors file, or a hub id. Of released ones headers and constants are read.
        weights: Load an attached model and compare its ways of running, beside what headers tell.
        full: Read every weight file and compare its sha256, where attach recorded them.
        tokenizer: Folder, tokenizer.json or hub id; the checkpoint's own when None.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run the code beside the weights, where the base is defined there; without
            it such a model is not loaded.

    Yields:
        A check at a time, in order.

    Raises:
        MissingFileError: There is no such checkpoint.
        MissingError: A package that loading needs is missing, or in a version that does not work.
        InputError: It has no memory.
    """
    try:
        memory = open_checkpoint(target, revision)
    except CorruptFileError as error:
        yield Check("settings", False, what_happened(error))
        return
    if memory.stated is None:
        yield from verify_released(memory.files, tokenizer)
        return
    loads = weights and not memory.adapter
    if loads:
        _demand_packages()
        if memory.path is None:
            _check_packages()  # before anything is downloaded
    if weights:
        memory = memory.downloaded(trust_remote_code)
    files = memory.files  # a hub that does not answer fails no check
    try:
        memory.demand_settings()
        files.demand_whole()
    except EngramError as error:
        yield Check("settings", False, what_happened(error))
        return
    yield Check("fingerprint", True, f"constants hash to {memory.addresses.fingerprint[:16]}...")
    load = memory.load_tokenizer if tokenizer is None else partial(load_tokenizer, tokenizer)
    for name, check in _HEADER_CHECKS.items():
        yield run_check(name, partial(check, memory))
    yield run_check("tokenizer", partial(_check_tokenizer, memory, load))
    yield run_check("small files", partial(_check_small_files, memory, load))
    if full:
        yield run_check("weight files", partial(_check_weight_files, memory))
    if memory.adapter:
        yield Check(
            "logits", None, "an adapter runs with its base alone: engram.load(base, adapter)"
        )
        return
    claims = run_check("base config", partial(_check_base_config, memory))
    yield claims
    if loads and claims.ok:
        _check_packages()
        from engram.checkpoints.verify.behaviour import behaviour_checks

        whole = run_check("base weights", partial(_check_base_weights, memory, trust_remote_code))
        yield whole
        if whole.ok is not False:  # beside random weights there is nothing to compare
            yield from behaviour_checks(memory, trust_remote_code)


def _demand_packages() -> None:
    """Refuse to begin without what loading a model needs; nothing is imported for it."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingPackageError(package, None, "Loading a model")


def _check_packages() -> None:
    """Check that models can be loaded; importing torch takes seconds, which headers do not need."""
    from engram.hf import compat

    compat.check()


def _check_sizes(memory: Checkpoint) -> Verdict:
    from engram.addressing.prime_witness import doubt_of_primes
    from engram.addressing.primes import head_primes, stored_rows

    heads = {layer.layer_id: layer.heads for layer in memory.addresses.layers}
    doubt = doubt_of_primes(memory.config, heads)
    if doubt is not None:
        return False, doubt
    expected = head_primes(memory.config, memory.addresses.layer_ids)
    for layer in memory.addresses.layers:
        primes = tuple(map(tuple, expected[layer.layer_id]))
        if primes != layer.primes:
            return False, f"layer {layer.layer_id}: the primes are not those of the config"
        rows = stored_rows(expected[layer.layer_id], memory.config.row_multiple)
        if rows != layer.stored_rows:
            return False, f"layer {layer.layer_id}: {layer.stored_rows} stored rows, not {rows}"
    by_layer = [layer.hash_rows for layer in memory.addresses.layers]
    return True, f"primes follow from the config, by sympy's account too; rows by layer {by_layer}"


def _check_constants(memory: Checkpoint) -> Verdict:
    from engram.addressing.multipliers import multipliers

    ids = memory.addresses.layer_ids
    expected = multipliers(memory.config, memory.addresses.vocab_size, ids)
    wrong = [i for i in memory.addresses.layers if expected[i.layer_id] != i.multipliers]
    if wrong:
        return False, f"layer {wrong[0].layer_id}: the multipliers are not those of the config"
    for layer in memory.addresses.layers:
        stored = memory.constant(layer.layer_id, OFFSETS, "<i8")
        if tuple(stored.tolist()) != layer.offsets:
            return False, f"layer {layer.layer_id}: the offsets are not those of its primes"
    return True, "multipliers follow from seed and vocabulary, offsets from the primes"


def _check_tensors(memory: Checkpoint) -> Verdict:
    expected = expected_tensors(memory.config, memory.addresses, memory.layers_path)
    stored = memory.memory_tensors
    problems = [f"{name} is missing" for name in expected if name not in stored]
    problems += [f"{name} is not wired" for name in stored if name not in expected]
    for name, (tag, shape) in expected.items():
        info = stored.get(name)
        if info is not None and info.shape != shape:
            problems.append(f"{name} is {list(info.shape)}, not {list(shape)}")
        elif info is not None and not _same_kind(tag, info.dtype):
            problems.append(f"{name} is {info.dtype}, not {tag}")
    if problems:
        return False, first_of(problems)
    return True, f"{len(expected)} tensors with the right names and shapes"


def _same_kind(expected: str, stored: str) -> bool:
    """Whether a tensor may be stored so: floats may have any width, quantised values but one."""
    return stored == expected or (stored in FLOATS and expected in FLOATS)


def _check_token_map(memory: Checkpoint) -> Verdict:
    addresses = memory.addresses
    if addresses.map_sha256 is None:
        return True, "this layout hashes raw ids"
    stored = memory.constant(addresses.layer_ids[0], TOKEN_MAP, "<i4")
    if map_digest(np.asarray(stored)) != addresses.map_sha256:
        return False, "the stored token map is not the one of the fingerprint"
    return True, f"{addresses.raw_vocab_size} ids onto {addresses.vocab_size}"


def _check_tokenizer(memory: Checkpoint, load: Callable[[], TokenizerFile]) -> Verdict:
    from engram.addressing.same_memory import check_tokenizer

    if memory.addresses.map_sha256 is None:
        return None, "this layout hashes raw ids, whatever the tokenizer"
    try:
        tokenizer = load()
    except MissingFileError as error:
        return None, error.message
    added = check_tokenizer(memory.addresses, tokenizer)
    more = f", and {added} tokens that were added since" if added else ""
    return True, f"the tokenizer gives the same token map{more}"


def _check_small_files(memory: Checkpoint, load: Callable[[], TokenizerFile]) -> Verdict:
    recorded, folder = read_digests(memory).small, memory.folder
    if recorded is None:
        return None, "their digests are not recorded"
    if folder is None:
        return None, "digests of files on the hub are compared when its weights are loaded"
    # Of the hub's files only those that loading needs are here.
    missing = [name for name in recorded if not (folder / name).is_file()]
    if missing and memory.name == str(folder):
        return False, first_of([f"{name} is not there" for name in missing])
    changed = changed_files(folder, recorded)
    if set(changed) <= set(TOKENIZER_FILES) and changed and _has_new_tokens(memory, load):
        return None, f"tokens were added to {', '.join(changed)} since"
    if changed:
        return False, first_of([f"{name} is not the file that attach wrote" for name in changed])
    return True, f"{plural(len(recorded) - len(missing), 'file')} as attach wrote them"


def _has_new_tokens(memory: Checkpoint, load: Callable[[], TokenizerFile]) -> bool:
    """Whether the tokenizer is the memory's own with tokens added, as people do."""
    from engram.addressing.same_memory import check_tokenizer

    if memory.addresses.map_sha256 is None:
        return False
    try:
        return check_tokenizer(memory.addresses, load()) > 0
    except EngramError:
        return False


def _check_weight_files(memory: Checkpoint) -> Verdict:
    recorded, folder = read_digests(memory).weights, memory.folder
    if recorded is None:
        return None, "their digests are not recorded (engram attach --digests records them)"
    if folder is None:
        return None, "weights on the hub are compared when they are loaded"
    missing = [f"{name} is not there" for name in recorded if not (folder / name).is_file()]
    changed = [f"{name} has another sha256" for name in changed_files(folder, recorded)]
    if missing or changed:
        return False, first_of(missing + changed)
    return True, f"{plural(len(recorded), 'file')} with the sha256 that attach recorded"


def _check_base_config(memory: Checkpoint) -> Verdict:
    shapes = {name: info.shape for name, info in memory.base_tensors.items()}
    try:
        check_claims(memory.model_config, shapes, memory.where)
    except ConfigError as error:
        first = error.problems[0]
        return False, f"{first.key} {first.message}"
    return True, "depth and widths are those of the base's tensors"


def _check_base_weights(memory: Checkpoint, trusted: bool) -> Verdict:
    from engram.checkpoints.attach.proof import judge_base_weights

    if memory.base.code is not None and not trusted:
        return None, "it would run code in its folder (--trust-remote-code)"
    return judge_base_weights(memory)


_HEADER_CHECKS: dict[str, Callable[[Checkpoint], Verdict]] = {
    "sizes": _check_sizes,
    "tensors": _check_tensors,
    "constants": _check_constants,
    "token map": _check_token_map,
}
