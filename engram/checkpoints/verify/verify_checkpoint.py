"""Checks that a checkpoint's memory is wired right: from headers, and with its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses, map_digest
from engram.backbone.claims import check_claims
from engram.checkpoints.attach.new_memory import memory_tensors
from engram.checkpoints.published.recognise import Stored, open_stored
from engram.checkpoints.published.verify_released import verify_released
from engram.checkpoints.read.adapter import ADAPTER_FILE
from engram.checkpoints.read.base_checkpoint import CONFIG_FILE, read_config, resolve_model
from engram.checkpoints.read.digests import TOKENIZER_FILES, Digests, changed_files, read_digests
from engram.checkpoints.read.inspect import memory_settings
from engram.checkpoints.read.settings import read_settings
from engram.checkpoints.read.tensor_names import OFFSETS, TOKEN_MAP
from engram.checks import Check, Verdict, first_of, run_check, what_happened
from engram.config.engram_config import EngramConfig
from engram.errors import (
    ConfigError,
    CorruptFileError,
    EngramError,
    MissingFileError,
    MissingPackageError,
)
from engram.storage.dtypes import FLOATS
from engram.storage.safetensors_headers import (
    INDEX_FILE,
    SINGLE_FILE,
    TensorInfo,
    read_folder_headers,
    read_header,
    read_weight_map,
)
from engram.units import plural

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile


@dataclass(frozen=True)
class _Memory:
    """An attached checkpoint, or an adapter, as its files describe it."""

    config: EngramConfig
    addresses: Addresses
    layers_path: str
    tensors: Mapping[str, TensorInfo]
    read_bytes: Callable[[TensorInfo], Any]
    load_tokenizer: Callable[[], TokenizerFile]

    def read(self, name: str, dtype: str) -> NDArray[Any]:
        info = self.tensors[name]
        return np.frombuffer(self.read_bytes(info), dtype=dtype).reshape(info.shape)

    def name(self, layer_id: int, part: str) -> str:
        return f"{self.layers_path}.{layer_id}.engram.{part}"


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
    path = Path(target)
    is_adapter = (path / ADAPTER_FILE).is_file()
    where = f"{target}/{ADAPTER_FILE if is_adapter else CONFIG_FILE}"
    try:
        settings = memory_settings(path) if path.is_dir() else None
    except CorruptFileError as error:
        yield Check("settings", False, what_happened(error))
        return
    stored = None
    if settings is None:
        stored = open_stored(target, revision)
        settings = stored.config.get("engram")
        if settings is None:
            yield from verify_released(stored, tokenizer)
            return
    if weights and not is_adapter:
        _demand_packages()
    if stored is not None and weights:
        _check_packages()  # before anything is downloaded
        path, stored = resolve_model(target, revision, trust_remote_code=trust_remote_code), None
    memory: _Memory | None = None
    try:
        stated = read_settings(settings, where)
        memory = _Memory(
            stated.config,
            stated.addresses,
            stated.layers_path,
            _memory_tensors_on_disk(path) if stored is None else _memory_tensors_on_hub(stored),
            _read_bytes if stored is None else stored.read,
            partial(_load_tokenizer, tokenizer or target, None if tokenizer else revision),
        )
    except EngramError as error:
        yield Check("settings", False, what_happened(error))
        return
    yield Check("fingerprint", True, f"constants hash to {memory.addresses.fingerprint[:16]}...")
    for name, check in _HEADER_CHECKS.items():
        yield run_check(name, partial(check, memory))
    folder = None if stored is not None else path
    recorded = partial(read_digests, settings, where)
    yield run_check("small files", partial(_check_small_files, memory, folder, recorded, target))
    if full:
        yield run_check("weight files", partial(_check_weight_files, folder, recorded))
    if is_adapter:
        yield Check(
            "logits", None, "an adapter runs with its base alone: engram.load(base, adapter)"
        )
        return
    whole = read_config(path) if stored is None else stored.config
    tensors = (read_folder_headers(path) or {}) if stored is None else stored.tensors
    claims = run_check("base config", partial(_check_base_config, whole, tensors, where))
    yield claims
    if weights and claims.ok:
        _check_packages()
        from engram.checkpoints.verify.behaviour import behaviour_checks

        check = partial(_check_base_weights, path, whole, tensors, trust_remote_code)
        loads = run_check("base weights", check)
        yield loads
        if loads.ok is not False:  # beside random weights there is nothing to compare
            yield from behaviour_checks(path, trust_remote_code)


def _demand_packages() -> None:
    """Refuse to begin without what loading a model needs; nothing is imported for it."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingPackageError(package, None, "Loading a model")


def _check_packages() -> None:
    """Check that models can be loaded; importing torch takes seconds, which headers do not need."""
    from engram.hf import compat

    compat.check()


def _load_tokenizer(name: str | Path, revision: str | None) -> TokenizerFile:
    from engram.addressing.tokenizer_files import load_tokenizer

    return load_tokenizer(name, revision)


def _read_bytes(info: TensorInfo) -> Any:
    return np.memmap(info.path, mode="r", offset=info.start, shape=info.stop - info.start)


def _memory_tensors_on_hub(stored: Stored) -> dict[str, TensorInfo]:
    stored.demand_whole()
    return {name: info for name, info in stored.tensors.items() if ".engram." in name}


def _memory_tensors_on_disk(folder: Path) -> dict[str, TensorInfo]:
    """Find the memory's tensors the way transformers finds them."""
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file():
        return {name: info for name, info in read_header(single).items() if ".engram." in name}
    if not index.is_file():
        raise MissingFileError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}.")
    weight_map = read_weight_map(index)
    wanted = {name: file for name, file in weight_map.items() if ".engram." in name}
    missing = sorted({file for file in weight_map.values() if not (folder / file).is_file()})
    if missing:
        raise MissingFileError(f"The index names {', '.join(missing)}, which is not there.")
    found = {file: read_header(folder / file) for file in sorted(set(wanted.values()))}
    absent = sorted(name for name, file in wanted.items() if name not in found[file])
    if absent:
        raise MissingFileError(f"{absent[0]} is not in {wanted[absent[0]]}, which the index names.")
    return {name: found[file][name] for name, file in wanted.items()}


def _check_sizes(memory: _Memory) -> Verdict:
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


def _check_constants(memory: _Memory) -> Verdict:
    from engram.addressing.multipliers import multipliers

    ids = memory.addresses.layer_ids
    expected = multipliers(memory.config, memory.addresses.vocab_size, ids)
    wrong = [i for i in memory.addresses.layers if expected[i.layer_id] != i.multipliers]
    if wrong:
        return False, f"layer {wrong[0].layer_id}: the multipliers are not those of the config"
    for layer in memory.addresses.layers:
        stored = memory.read(memory.name(layer.layer_id, OFFSETS), "<i8")
        if tuple(stored.tolist()) != layer.offsets:
            return False, f"layer {layer.layer_id}: the offsets are not those of its primes"
    return True, "multipliers follow from seed and vocabulary, offsets from the primes"


def _check_tensors(memory: _Memory) -> Verdict:
    expected = memory_tensors(memory.config, memory.addresses, memory.layers_path)
    problems = [f"{name} is missing" for name in expected if name not in memory.tensors]
    problems += [f"{name} is not wired" for name in memory.tensors if name not in expected]
    for name, (tag, shape) in expected.items():
        info = memory.tensors.get(name)
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


def _check_token_map(memory: _Memory) -> Verdict:
    addresses = memory.addresses
    if addresses.map_sha256 is None:
        return True, "this layout hashes raw ids"
    stored = memory.read(memory.name(addresses.layer_ids[0], TOKEN_MAP), "<i4")
    if map_digest(np.asarray(stored)) != addresses.map_sha256:
        return False, "the stored token map is not the one of the fingerprint"
    return True, f"{addresses.raw_vocab_size} ids onto {addresses.vocab_size}"


def _check_tokenizer(memory: _Memory) -> Verdict:
    from engram.addressing.same_tokenizer import check_tokenizer

    if memory.addresses.map_sha256 is None:
        return None, "this layout hashes raw ids, whatever the tokenizer"
    try:
        tokenizer = memory.load_tokenizer()
    except MissingFileError as error:
        return None, error.message
    added = check_tokenizer(memory.addresses, tokenizer)
    more = f", and {added} tokens that were added since" if added else ""
    return True, f"the tokenizer gives the same token map{more}"


def _check_small_files(
    memory: _Memory, folder: Path | None, read: Callable[[], Digests], target: str | Path
) -> Verdict:
    recorded = read().small
    if recorded is None:
        return None, "their digests are not recorded"
    if folder is None:
        return None, "digests of files on the hub are compared when its weights are loaded"
    # Of the hub's files only those that loading needs are here.
    missing = [name for name in recorded if not (folder / name).is_file()]
    if missing and Path(target).is_dir():
        return False, first_of([f"{name} is not there" for name in missing])
    changed = changed_files(folder, recorded)
    if set(changed) <= set(TOKENIZER_FILES) and changed and _has_new_tokens(memory):
        return None, f"tokens were added to {', '.join(changed)} since"
    if changed:
        return False, first_of([f"{name} is not the file that attach wrote" for name in changed])
    return True, f"{plural(len(recorded) - len(missing), 'file')} as attach wrote them"


def _has_new_tokens(memory: _Memory) -> bool:
    """Whether the tokenizer is the memory's own with tokens added, as people do."""
    from engram.addressing.same_tokenizer import check_tokenizer

    if memory.addresses.map_sha256 is None:
        return False
    try:
        return check_tokenizer(memory.addresses, memory.load_tokenizer()) > 0
    except EngramError:
        return False


def _check_weight_files(folder: Path | None, read: Callable[[], Digests]) -> Verdict:
    recorded = read().weights
    if recorded is None:
        return None, "their digests are not recorded (engram attach --digests records them)"
    if folder is None:
        return None, "weights on the hub are compared when they are loaded"
    missing = [f"{name} is not there" for name in recorded if not (folder / name).is_file()]
    changed = [f"{name} has another sha256" for name in changed_files(folder, recorded)]
    if missing or changed:
        return False, first_of(missing + changed)
    return True, f"{plural(len(recorded), 'file')} with the sha256 that attach recorded"


def _check_base_config(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], where: str
) -> Verdict:
    shapes = {name: it.shape for name, it in tensors.items() if ".engram." not in name}
    try:
        check_claims(config, shapes, where)
    except ConfigError as error:
        first = error.problems[0]
        return False, f"{first.key} {first.message}"
    return True, "depth and widths are those of the base's tensors"


def _check_base_weights(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], trusted: bool
) -> Verdict:
    from engram.checkpoints.attach.proof import judge_base_weights
    from engram.checkpoints.read.load_checkpoint import classes_of

    code = read_settings(config["engram"], f"{folder}/{CONFIG_FILE}").base.code
    if code is not None and not trusted:
        return None, "it would run code in its folder (--trust-remote-code)"
    described = {name: (it.dtype, it.shape) for name, it in tensors.items()}
    classes = classes_of(folder, config, code)
    return judge_base_weights(folder, classes, config, described, own_code=code is not None)


_HEADER_CHECKS: dict[str, Callable[[_Memory], Verdict]] = {
    "sizes": _check_sizes,
    "tensors": _check_tensors,
    "constants": _check_constants,
    "token map": _check_token_map,
    "tokenizer": _check_tokenizer,
}
