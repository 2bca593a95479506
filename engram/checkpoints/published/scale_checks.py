"""Check of a released checkpoint's quantised tensors: their scales, biases, and packed rows."""

from collections.abc import Iterator

from engram.checkpoints.published.encoded_values import encoded_values
from engram.checkpoints.published.family import Expected, Released
from engram.checkpoints.published.formats import EXL3, SCALE_TAGS, Format, format_of, scale_shapes
from engram.checks import Verdict, verdict
from engram.errors import LayoutError
from engram.layouts.dialect import Key, Side
from engram.storage.safetensors_headers import TensorInfo

SOME_UNREAD = "some are in files that cannot be read; the others are right"
_SCALES: tuple[Side, ...] = ("scale", "global_scale", "bias")


def check_scales(found: Released) -> Verdict:
    """Quantised tensors and their scales."""
    problems: list[str] = []
    scaled, unread, trellis = 0, False, ""
    for key, tensor in found.expected.items():
        infos = found.infos(key)
        stored = format_of(infos[0], tensor.shape[-1]) if infos else None
        if stored is None:
            continue
        if not stored.scaled:
            problems += [f"{name} scales values that need none" for name in _sides(found, key)]
            trellis = stored.name if stored.name.startswith(EXL3) else trellis
        elif stored.packed and stored.name != "int4":
            lost = _lost(found, key)
            unread |= lost
            problems += [] if lost else _packed_problems(found, key, tensor)
            scaled += len(infos)
        else:
            wrong, count, lost = _scaled_problems(found, key, tensor, stored)
            problems += wrong
            scaled, unread = scaled + count, unread or lost
    right = f"{scaled} quantised tensors have scales of the right shape and dtype"
    if trellis and not scaled:
        right = f"rows of EXL3's trellis ({trellis}) have no scales; they are counted, not decoded"
    return verdict(
        problems, right if scaled or trellis else "nothing is quantised", SOME_UNREAD * unread
    )


def _sides(found: Released, key: Key) -> Iterator[str]:
    for side in _SCALES:
        yield from found.names(key, side)


def _lost(found: Released, key: Key) -> bool:
    """Whether scales of a tensor are in files that cannot be read."""
    return any(
        slot is not None and slot.key == key and slot.side in _SCALES
        for slot in map(found.family.read, found.stored.unread)
    )


def _packed_problems(found: Released, key: Key, tensor: Expected) -> list[str]:
    try:
        encoded_values(found, key, tensor.shape[-1])
    except LayoutError as error:
        return [error.message]
    return []


def _scaled_problems(
    found: Released, key: Key, tensor: Expected, stored: Format
) -> tuple[list[str], int, bool]:
    """Problems of values that are elements, how many have scales, and whether some are unread."""
    problems: list[str] = []
    scaled, unread = 0, False
    sides: tuple[Side, ...] = ("global_scale", "bias")
    for other in (other for side in sides for other in found.names(key, side)):
        problems.append(f"{other} belongs to packed rows, and the values are {stored.name}")
    infos = found.infos(key)
    scales = {found.slots[name].shard: name for name in found.names(key, "scale")}
    of_all = scales.get(None, scales.get(0)) if len(scales) == 1 else None
    block = tensor.block if stored.name.startswith("fp") else None
    for values, info in zip(found.names(key), infos, strict=True):
        shard = found.slots[values].shard
        name = scales.get(shard, of_all)
        if name is not None:
            scaled += 1
            rows = info.shape[0] if info.shape and shard in scales else tensor.shape[0]
            shapes = scale_shapes((rows, *tensor.shape[1:]), block)
            problems += _scale_problems(name, found.stored.tensors[name], shapes)
        elif (missing := found.name_of(key, shard, scale=True)) in found.stored.unread:
            unread = True
        else:
            problems.append(f"{missing} is missing: the values are {stored.name}")
    return problems, scaled, unread


def _scale_problems(name: str, info: TensorInfo, shapes: list[tuple[int, ...]]) -> list[str]:
    if info.dtype not in SCALE_TAGS:
        return [f"{name} is {info.dtype}, which is not a dtype of scales"]
    right = " or ".join(str(list(shape)) for shape in shapes[:3])
    return [] if info.shape in shapes else [f"{name} is {list(info.shape)}, not {right}"]
