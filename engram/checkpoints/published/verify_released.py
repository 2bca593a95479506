"""Checks that a released checkpoint is what its config says, from its headers."""

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path

from engram.checkpoints.published.family import Expected, Released
from engram.checkpoints.published.formats import PACKED_TAGS, format_of
from engram.checkpoints.published.layout_checks import checks_of
from engram.checkpoints.published.recognise import find_family, recognise
from engram.checkpoints.published.scale_checks import SOME_UNREAD, check_scales
from engram.checks import Check, Verdict, run_check, verdict, what_happened
from engram.errors import EngramError
from engram.layouts.tensors import CONSTANTS
from engram.storage.safetensors_headers import TensorInfo
from engram.storage.stored import Stored
from engram.tensor_names import TABLE
from engram.units import plural


def verify_released(
    stored: Stored,
    tokenizer: str | Path | None,
    stated: Mapping[str, Callable[[], Verdict]],
) -> Iterator[Check]:
    """Check a released checkpoint. Base tensors are not judged, but files that are missing are.

    Args:
        stored: Its files.
        tokenizer: Folder, tokenizer.json or hub id; the checkpoint's own when None.
        stated: Checks of what is stated beside its files, which say more than those of the same
            name where these find nothing wrong.

    Yields:
        A check at a time, in order.

    Raises:
        InputError: It is of no known family.
    """
    files = run_check("files", _check_files, stored)
    try:
        found = recognise(stored)
    except EngramError as error:
        yield files
        if find_family(stored) is not None:
            yield Check("config", False, what_happened(error))
        elif not stored.problems:
            raise
        return
    yield Check("family", True, f"{found.title}, layout {found.family.name}")
    yield files
    checks = {"tensors": _check_tensors, "scales": check_scales}
    checks |= checks_of(found.family, tokenizer)
    others = dict(stated)
    for name, check in checks.items():
        made = run_check(name, check, found)
        other = others.pop(name, None)
        yield made if made.ok is False or other is None else run_check(name, other)
    for name, other in others.items():
        yield run_check(name, other)
    yield Check("values", None, "headers alone were read: no row and no weight was looked at")


def _check_files(stored: Stored) -> Verdict:
    files = plural(len({info.path for info in stored.tensors.values()}), "file")
    problems = [error.message for error in stored.problems]
    if not (problems or stored.tensors):
        return False, "there are no safetensors weights"
    if stored.folder is not None:
        return verdict(problems, f"{files}, all there and of the length that the headers call for")
    return verdict(problems, f"{files} with whole headers; lengths were not compared")


def _check_tensors(found: Released) -> Verdict:
    """Names, shapes and dtypes against the config."""
    if not found.slots and found.stored.problems:
        return None, "they are in files that cannot be read"
    return verdict(
        [*_swapped(found), *_tensor_problems(found)],
        f"{len(found.slots)} tensors of the memory with the right names and shapes",
        SOME_UNREAD if any(map(found.missing, found.expected)) else "",
    )


def _tensor_problems(found: Released) -> Iterator[str]:
    """Tensors that are missing, of another shape, or not called for."""
    for key, tensor in found.expected.items():
        names, missing = found.names(key), found.missing(key)
        yield from (f"{name} is missing" for name in missing if name not in found.stored.unread)
        for name in names:
            if (found.slots[name].shard or 0) >= tensor.shards:
                yield f"{name} is not wired: the config calls for {tensor.shards} shards"
        if names and not missing:
            yield from _shape_problems(tensor, key.name in CONSTANTS, names, found.infos(key))
    for name, slot in found.slots.items():
        if slot.key not in found.expected:
            yield f"{name} is not wired: the config does not call for it"


def _shape_problems(
    tensor: Expected, constant: bool, names: list[str], infos: list[TensorInfo]
) -> Iterator[str]:
    dtypes = {info.dtype for info in infos}
    stored = None if constant else format_of(infos[0], tensor.shape[-1])
    # A packed format was told by the columns that the config calls for.
    inner = infos[0].shape[1:] if stored and stored.packed else tensor.shape[1:]
    known = {inner} | ({tensor.other[1:]} if tensor.other else set())
    inners = {info.shape[1:] for info in infos}
    shape = (tensor.shape[0], *inner)
    rows = sum(info.shape[0] if info.shape else 1 for info in infos)
    if len(dtypes) != 1:
        yield f"{names[0]} and its other shards have different dtypes: {sorted(dtypes)}"
    elif constant and dtypes != {"I64"}:
        yield f"{names[0]} is {infos[0].dtype}, not I64"
    elif stored is None and not constant:
        yield f"{names[0]} is {infos[0].dtype}, {_why_unknown(infos[0], tensor)}"
    elif len(inners) != 1 or not inners <= known or rows != shape[0]:
        where = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        got, right = (
            " x ".join([f"{sizes[0]:,}", *map(str, sizes[1:])])
            for sizes in ((rows, *infos[0].shape[1:]), shape)
        )
        yield f"{where}: [{got}], and the config calls for [{right}]"


def _why_unknown(info: TensorInfo, tensor: Expected) -> str:
    if len(info.shape) == 2 and info.dtype in PACKED_TAGS:
        return f"and {info.shape[1]} to a row do not pack {tensor.shape[-1]} values"
    return "which is not a format of weights"


def _swapped(found: Released) -> list[str]:
    """Tables that lie in each other's layers, told by their rows."""
    tables = {
        key: (sum(info.shape[0] for info in found.infos(key) if info.shape), tensor.shape[0])
        for key, tensor in found.expected.items()
        if key.name == TABLE and found.names(key)
    }
    return [
        f"{found.names(one)[0]} and {found.names(other)[0]} are swapped: each has the rows of the "
        "other"
        for one, other in combinations(tables, 2)
        if tables[one] == tables[other][::-1] and tables[one] != tables[other]
    ]
