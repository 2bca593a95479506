"""Checks of an attached memory that headers, constants and small files are enough for."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from engram.addressing.addresses import LayerAddresses, layer_addresses, map_digest
from engram.addressing.prime_witness import doubt_of_primes
from engram.addressing.same_memory import check_config, check_tokenizer
from engram.backbone.claims import check_claims
from engram.checkpoints.read.attached_files import MEMORY_FILE
from engram.checkpoints.read.checkpoint import Checkpoint
from engram.checkpoints.read.digests import TOKENIZER_FILES, changed_files, read_digests
from engram.checkpoints.read.memory_tensors import expected_tensors
from engram.checks import Verdict, first_of, verdict
from engram.errors import ConfigError, EngramError, MissingFileError
from engram.storage.dtypes import FLOATS
from engram.tensor_names import OFFSETS, TOKEN_MAP
from engram.units import plural


def _check_sizes(memory: Checkpoint) -> Verdict:
    layers, right = memory.addresses.layers, _expected(memory)
    doubt = doubt_of_primes(memory.config, {layer.layer_id: layer.heads for layer in layers})
    if doubt is not None:
        return False, doubt
    for layer in layers:
        rows = right[layer.layer_id].stored_rows
        if layer.primes != right[layer.layer_id].primes:
            return False, f"layer {layer.layer_id}: the primes are not those of the config"
        if layer.stored_rows != rows:
            return False, f"layer {layer.layer_id}: {layer.stored_rows} stored rows, not {rows}"
    by_layer = [layer.hash_rows for layer in layers]
    return True, f"primes follow from the config, and sympy agrees; rows by layer {by_layer}"


def _check_constants(memory: Checkpoint) -> Verdict:
    right = _expected(memory)
    for layer in memory.addresses.layers:
        if layer.multipliers != right[layer.layer_id].multipliers:
            return False, f"layer {layer.layer_id}: the multipliers are not those of the config"
    for layer in memory.addresses.layers:
        stored = memory.constant(layer.layer_id, OFFSETS, "<i8")
        if tuple(stored.tolist()) != layer.offsets:
            return False, f"layer {layer.layer_id}: the offsets are not those of its primes"
    return True, "multipliers follow from seed and vocabulary, offsets from the primes"


def _check_stated(memory: Checkpoint) -> Verdict:
    """Compare the constants beside published names with their config and the files."""
    check_config(memory.addresses, memory.config, memory.settings_file)
    memory.check(memory.addresses)
    if not memory.files.problems:
        _ = memory.layers
    return True, f"those of {MEMORY_FILE} follow from its config, and are those of the files"


def _expected(memory: Checkpoint) -> dict[int, LayerAddresses]:
    """Compute the constants that follow from the config, by layer."""
    addresses = memory.addresses
    layers = layer_addresses(memory.config, addresses.vocab_size, addresses.layer_ids)
    return {layer.layer_id: layer for layer in layers}


def _check_tensors(memory: Checkpoint) -> Verdict:
    """Names, shapes and dtypes; floats may have any width, quantised values but one."""
    config = memory.config
    expected = expected_tensors(config, config.stored_dtype(), memory.addresses, memory.layers_path)
    stored = memory.memory_tensors
    problems = [f"{name} is missing" for name in expected if name not in stored]
    problems += [f"{name} is not wired" for name in stored if name not in expected]
    for name, (tag, shape) in expected.items():
        info = stored.get(name)
        if info is not None and info.shape != shape:
            problems.append(f"{name} is {list(info.shape)}, not {list(shape)}")
        elif info is not None and info.dtype != tag and not {info.dtype, tag} <= FLOATS.keys():
            problems.append(f"{name} is {info.dtype}, not {tag}")
    return verdict(problems, f"{len(expected)} tensors with the right names and shapes")


def _check_token_map(memory: Checkpoint) -> Verdict:
    addresses = memory.addresses
    if addresses.map_sha256 is None:
        return True, "this layout hashes raw ids"
    stored = memory.constant(addresses.layer_ids[0], TOKEN_MAP, "<i4")
    if map_digest(np.asarray(stored)) != addresses.map_sha256:
        return False, "the stored token map is not the one of the fingerprint"
    return True, f"{addresses.raw_vocab_size} ids onto {addresses.vocab_size}"


def _check_tokenizer(memory: Checkpoint) -> Verdict:
    if memory.addresses.map_sha256 is None:
        return None, "this layout hashes raw ids, whatever the tokenizer"
    try:
        tokenizer = memory.load_tokenizer()
    except MissingFileError as error:
        return None, error.message
    added = check_tokenizer(memory.addresses, tokenizer)
    more = f", and {added} tokens that were added since" if added else ""
    return True, f"the tokenizer gives the same token map{more}"


def _check_small_files(memory: Checkpoint) -> Verdict:
    recorded, folder = read_digests(memory).get("small_files"), memory.folder
    if recorded is None:
        return None, "their digests are not recorded"
    if folder is None:
        return None, "digests of files on the hub are compared when its weights are loaded"
    # Of the hub's files only those that loading needs are here.
    missing = [f"{name} is not there" for name in recorded if not (folder / name).is_file()]
    if missing and memory.name == str(folder):
        return False, first_of(missing)
    changed = changed_files(folder, recorded)
    if changed and set(changed) <= set(TOKENIZER_FILES) and memory.addresses.map_sha256 is not None:
        # People add tokens to the memory's own tokenizer.
        with suppress(EngramError):
            if check_tokenizer(memory.addresses, memory.load_tokenizer()) > 0:
                return None, f"tokens were added to {', '.join(changed)} since"
    return verdict(
        [f"{name} is not the file that attach wrote" for name in changed],
        f"{plural(len(recorded) - len(missing), 'file')} as attach wrote them",
    )


def _check_weight_files(memory: Checkpoint) -> Verdict:
    recorded, folder = read_digests(memory).get("weight_files"), memory.folder
    if recorded is None:
        return None, "their digests are not recorded (engram attach --digests records them)"
    if folder is None:
        return None, "weights on the hub are compared when they are loaded"
    missing = [f"{name} is not there" for name in recorded if not (folder / name).is_file()]
    changed = [f"{name} has another sha256" for name in changed_files(folder, recorded)]
    right = f"{plural(len(recorded), 'file')} with the sha256 that attach recorded"
    return verdict(missing + changed, right)


def check_base_config(memory: Checkpoint) -> Verdict:
    """Claims of the base's config, against its tensors."""
    shapes = {name: info.shape for name, info in memory.base_tensors.items()}
    try:
        check_claims(memory.model_config, shapes, memory.where)
    except ConfigError as error:
        first = error.problems[0]
        return False, f"{first.key} {first.message}"
    return True, "depth and widths are those of the base's tensors"


# In the order of the answer.
CHECKS: dict[str, Callable[[Checkpoint], Verdict]] = {
    "sizes": _check_sizes,
    "tensors": _check_tensors,
    "constants": _check_constants,
    "token map": _check_token_map,
    "tokenizer": _check_tokenizer,
    "small files": _check_small_files,
    "weight files": _check_weight_files,
}
# Of a memory that was converted to published names, beside those of its layout.
STATED: dict[str, Callable[[Checkpoint], Verdict]] = {
    "constants": _check_stated,
    "tokenizer": _check_tokenizer,
}
