"""Checks that a released checkpoint is what its config says, from its headers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import combinations

from engram.checkpoints.published.family import Expected, Released
from engram.checkpoints.published.formats import (
    MLX_PACKED,
    MLX_TAG,
    SCALE_TAGS,
    format_of,
    scale_shapes,
    stored_shape,
)
from engram.checkpoints.published.recognise import no_memory, recognise
from engram.checks import Check, Verdict, first_of, run_check, what_happened
from engram.errors import EngramError
from engram.layouts.dialect import Key
from engram.storage.safetensors_headers import TensorInfo
from engram.storage.stored import Stored


def verify_released(stored: Stored, tokenizer: str | None = None) -> Iterator[Check]:
    """Check a released checkpoint. Base tensors are not judged, but files that are missing are.

    Args:
        stored: Its files.
        tokenizer: Folder, tokenizer.json or hub id; the checkpoint's own when None.

    Yields:
        A check at a time, in order.

    Raises:
        InputError: It is of no known family.
    """
    try:
        found = recognise(stored)
    except EngramError as error:
        yield run_check("files", partial(_check_files, stored))
        yield Check("config", False, what_happened(error))
        return
    if found is None:
        yield run_check("files", partial(_check_files, stored))
        if not stored.problems:
            raise no_memory(stored)
        return
    yield Check("family", True, f"{found.family.title}, layout {found.family.layout}")
    yield run_check("files", partial(_check_files, stored))
    yield run_check("tensors", partial(_check_tensors, found))
    yield run_check("scales", partial(_check_scales, found))
    for name, check in found.family.checks.items():
        yield run_check(name, partial(check, found, tokenizer))
    yield Check("values", None, "headers alone were read: no row and no weight was looked at")


def _check_files(stored: Stored) -> Verdict:
    if stored.problems:
        return False, first_of(stored.problems)
    if not stored.tensors:
        return False, "there are no safetensors weights"
    files = "file" if stored.files == 1 else "files"
    if not stored.lengths_known:
        return True, f"{stored.files} {files} with whole headers; lengths were not compared"
    return True, f"{stored.files} {files}, all there and of the length that the headers call for"


def _check_tensors(found: Released) -> Verdict:
    """Names, shapes and dtypes against the config."""
    if not found.slots and found.stored.problems:
        return None, "they are in files that cannot be read"
    expected = found.memory.expected
    problems = [*_swapped(found), *_tensor_problems(found)]
    if problems:
        return False, first_of(problems)
    if any(map(found.missing, expected)):
        return None, "some are in files that cannot be read; the others are right"
    return True, f"{len(found.slots)} tensors of the memory with the right names and shapes"


def _tensor_problems(found: Released) -> Iterator[str]:
    """Tensors that are missing, of another shape, or not called for."""
    expected = found.memory.expected
    for key, tensor in expected.items():
        names, infos, missing = found.names(key), found.infos(key), found.missing(key)
        yield from (f"{name} is missing" for name in missing if name not in found.stored.unread)
        for name in names:
            if (found.slots[name].shard or 0) >= tensor.shards:
                yield f"{name} is not wired: the config calls for {tensor.shards} shards"
        if infos and not missing:
            constant = found.slots[names[0]].role == "constants"
            yield from _shape_problems(tensor, constant, names, infos)
    for name, slot in found.slots.items():
        if slot.key not in expected:
            yield f"{name} is not wired: the config does not call for it"


def _shape_problems(
    tensor: Expected, constant: bool, names: list[str], infos: list[TensorInfo]
) -> list[str]:
    dtypes = {info.dtype for info in infos}
    if len(dtypes) != 1:
        return [f"{names[0]} and its other shards have different dtypes: {sorted(dtypes)}"]
    stored = None if constant else format_of(infos[0], tensor.shape[-1])
    if constant and dtypes != {"I64"}:
        return [f"{names[0]} is {infos[0].dtype}, not I64"]
    if infos[0].dtype == MLX_TAG and not constant:
        return [f"{names[0]} {MLX_PACKED}"]
    if stored is None and not constant:
        return [f"{names[0]} is {infos[0].dtype}, which is not a format of weights"]
    shape = stored_shape(tensor.shape, stored.packed if stored else 1)
    columns = {info.shape[1:] for info in infos}
    rows = sum(info.shape[0] if info.shape else 1 for info in infos)
    if columns == {shape[1:]} and rows == shape[0]:
        return []
    where = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    got = [f"{rows:,}", *map(str, infos[0].shape[1:])]
    right = [f"{shape[0]:,}", *map(str, shape[1:])]
    return [f"{where}: [{' x '.join(got)}], and the config calls for [{' x '.join(right)}]"]


def _swapped(found: Released) -> list[str]:
    """Tables that lie in each other's layers, told by their rows."""
    tables = {k: item.shape[0] for k, item in found.memory.expected.items() if _is_table(found, k)}
    stored = {key: sum(i.shape[0] for i in found.infos(key) if i.shape) for key in tables}
    wrong = [key for key, rows in stored.items() if rows != tables[key]]
    return [
        f"{found.names(one)[0]} and {found.names(other)[0]} are swapped: each has the rows of the "
        "other"
        for one, other in combinations(wrong, 2)
        if stored[one] == tables[other] and stored[other] == tables[one]
    ]


def _is_table(found: Released, key: Key) -> bool:
    return any(found.slots[name].role == "table" for name in found.names(key))


def _check_scales(found: Released) -> Verdict:
    """Quantised tensors and their scales."""
    problems: list[str] = []
    scaled, blind = 0, 0
    for key, tensor in found.memory.expected.items():
        infos = found.infos(key)
        stored = format_of(infos[0], tensor.shape[-1]) if infos else None
        if stored is None:
            continue
        shards = {found.slots[name].shard: found.stored.tensors[name] for name in found.names(key)}
        scales = {found.slots[name].shard: name for name in found.names(key, scale=True)}
        if not stored.scaled:
            problems += [f"{name} scales values that need none" for name in scales.values()]
            continue
        for shard, info in shards.items():
            one = scales.get(None, scales.get(0)) if len(scales) == 1 else None
            name = scales.get(shard, one)
            if name is None:
                missing = found.name_of(key, shard, scale=True)
                if missing in found.stored.unread:
                    blind += 1
                else:
                    problems.append(f"{missing} is missing: the values are {stored.name}")
                continue
            scaled += 1
            rows = info.shape[0] if info.shape and shard in scales else tensor.shape[0]
            block = tensor.block if stored.name.startswith("fp") else None
            shapes = scale_shapes((rows, *tensor.shape[1:]), block)
            problems += _scale_problems(name, found.stored.tensors[name], shapes)
    if problems:
        return False, first_of(problems)
    if blind:
        return None, "some are in files that cannot be read; the others are right"
    if not scaled:
        return True, "nothing is quantised"
    return True, f"{scaled} quantised tensors have scales of the right shape and dtype"


def _scale_problems(name: str, info: TensorInfo, shapes: list[tuple[int, ...]]) -> list[str]:
    if info.dtype not in SCALE_TAGS:
        return [f"{name} is {info.dtype}, which is not a dtype of scales"]
    if info.shape not in shapes:
        right = " or ".join(str(list(shape)) for shape in shapes[:3])
        return [f"{name} is {list(info.shape)}, not {right}"]
    return []
