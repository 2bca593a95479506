"""Headers of a model in GGUF that is split into parts, NAME-00001-of-00012.gguf and so on."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engram.errors import CorruptFileError, InputError, MissingFileError
from engram.storage.gguf_headers import GgufFile, GgufProblem, GgufTensor, read_gguf
from engram.storage.gguf_values import INTEGERS, GgufValue

_PART = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
# Keys by which each part says how the model is split, with the types that llama.cpp reads.
SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS = "split.no", "split.count", "split.tensors.count"
SPLIT_KINDS = {SPLIT_NO: "uint16", SPLIT_COUNT: "uint16", SPLIT_TENSORS: "int32"}
NAMED = 10  # files that a message names


@dataclass(frozen=True)
class GgufFiles:
    """Headers of a model's GGUF file, or of the parts that it is split into.

    Attributes:
        parts: The files in order; the first alone where no more was asked for.
        values: Metadata of the first one.
        tensors: Tensors of all by name; each names its file.
        problems: Causes for which a loader would refuse any of them, or all together.
    """

    parts: tuple[GgufFile, ...]
    values: Mapping[str, GgufValue]
    tensors: Mapping[str, GgufTensor]
    problems: tuple[GgufProblem, ...]


def read_gguf_parts(path: Path, *, first_only: bool = False) -> GgufFiles:
    """Read the headers of all parts of a model, or of a file that is not split.

    Args:
        path: The file, any of its parts, or a folder with one model.
        first_only: Read the first part alone, which has the metadata; others may be missing.

    Raises:
        MissingFileError: A part is missing, or may not be read.
        InputError: The folder has several models.
        CorruptFileError: See `read_gguf` and `join_parts`.
    """
    file = _model_of(path) if path.is_dir() else path
    names = part_names(file.name)
    paths = [file.with_name(name) for name in (names[:1] if first_only else names)]
    missing = [each.name for each in paths if not each.exists()]
    if missing and len(names) > 1:
        others = f", nor are {len(missing) - 1:,} more" if missing[1:] else ""
        raise MissingFileError(
            f"{path} is a model in {len(names):,} parts, and {missing[0]} is not there{others}.",
            "Download all parts into one folder.",
            path=str(path),
            missing=missing[:NAMED],
        )
    return join_parts([read_gguf(each) for each in paths])


def part_names(name: str) -> tuple[str, ...]:
    """Return the names of all parts that belong to a file, or its own where it is not a part.

    Args:
        name: Such as ``model-00002-of-00003.gguf``.
    """
    match = _PART.fullmatch(name)
    if match is None or not 0 < int(match["number"]) <= int(match["count"]):
        return (name,)
    stem, count = match["stem"], int(match["count"])
    return tuple(f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1))


def join_parts(parts: Sequence[GgufFile]) -> GgufFiles:
    """Join the headers of a model's parts.

    Args:
        parts: All in order, or the first one alone.

    Raises:
        CorruptFileError: Two of them have a tensor of the same name.
    """
    tensors: dict[str, GgufTensor] = {}
    for part in parts:
        for name, tensor in part.tensors.items():
            if name in tensors:
                raise CorruptFileError(
                    f"{part.path} is damaged: it has the tensor {name}, as has "
                    f"{tensors[name].path}.",
                    "Download or copy both again.",
                    path=str(part.path),
                    tensor=name,
                )
            tensors[name] = tensor
    problems = [problem for part in parts for problem in part.problems]
    problems += _split_problems(parts)
    return GgufFiles(tuple(parts), parts[0].values, tensors, tuple(problems))


def _split_problems(parts: Sequence[GgufFile]) -> Iterator[GgufProblem]:
    """Compare what the parts state about the split with their names and tensors."""
    count, total = len(part_names(parts[0].path.name)), sum(len(part.tensors) for part in parts)
    for index, part in enumerate(parts):
        stated = _integer(part, SPLIT_COUNT)
        if count == 1 and (stated or 0) > 1:
            message = f"{part.path.name} is one of {stated} parts, which its name does not say."
            yield GgufProblem("SPLIT_NAME", SPLIT_COUNT, message, part.path)
        if count == 1:
            continue
        expected = [("SPLIT_COUNT", SPLIT_COUNT, count), ("SPLIT_NO", SPLIT_NO, index)]
        if len(parts) == count:
            expected.append(("SPLIT_TENSORS", SPLIT_TENSORS, total))
        for code, key, right in expected:
            if (found := _integer(part, key)) != right:
                shown = "missing" if found is None else found
                message = f"{key} of {part.path.name} must be {right}, got {shown}."
                yield GgufProblem(code, key, message, part.path)


def _integer(part: GgufFile, key: str) -> int | None:
    value = part.values.get(key)
    if value is None or value.is_array or value.kind not in INTEGERS:
        return None
    return int(value.scalar())


def _model_of(folder: Path) -> Path:
    """Return the first part of the only model of a folder."""
    files = sorted({part_names(file.name)[0] for file in folder.glob("*.gguf")})
    if len(files) > 1:
        raise InputError(
            f"{folder} has {len(files)} models in GGUF files.",
            f"Give one of them: {', '.join(files[:NAMED])}.",
            path=str(folder),
        )
    if not files:
        raise MissingFileError(f"{folder} has no GGUF file.", "Check the path.", path=str(folder))
    return folder / files[0]
