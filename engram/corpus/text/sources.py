"""Finds the files of a text: in folders, as parts of files, and entries that are not read."""

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from engram.corpus.text.dataset_folders import dataset_files, describes_dataset
from engram.corpus.text.documents import Split
from engram.corpus.text.text_options import STDIN
from engram.errors import InputError, MissingFileError, UsageError
from engram.storage.file_names import refuse_empty
from engram.storage.gguf import refuse_gguf
from engram.storage.json_files import TEXT, find_json

# Says what a folder of results holds.
MANIFEST = "manifest.json"
Format = Literal["text", "jsonl", "json", "csv", "parquet", "arrow"]
_FORMATS: dict[str, Format] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_COMPRESSIONS: dict[str, Literal["gzip", "zstd"]] = {".gz": "gzip", ".zst": "zstd"}
_BLOCK_BYTES = 2**20
_NAMED = 100
# Python writes bytes of a name that are not UTF-8 as halves of surrogate pairs.
_NOT_UTF8 = re.compile("[\ud800-\udfff]")
_HUB_NAME = re.compile(r"(?:[\w-]+/)?[\w-]+(?:\.[\w-]+)*")


@dataclass(frozen=True)
class Source:
    """One file of text, or a part of one.

    Attributes:
        name: Its name in messages.
        path: Its path; None for standard input.
        format: Plain text; JSON records, one a line (jsonl) or however the content has them (json);
            rows of a .csv, a .tsv, a .parquet or an .arrow.
        compression: Compression of its bytes; None if they are not compressed.
        size_bytes: Its size as stored, or that of the part; None for standard input and pipes.
        begin: First byte of the part; of a table its first row group or record batch.
        end: End of the part, in the same unit; None for the rest of the file.
    """

    name: str
    path: Path | None
    format: Format = "text"
    compression: Literal["gzip", "zstd"] | None = None
    size_bytes: int | None = None
    begin: int = 0
    end: int | None = None

    @property
    def delimiter(self) -> str:
        """The separator of columns in a .csv or .tsv."""
        is_tsv = self.path is not None and _plain_suffix(self.path) == ".tsv"
        return "\t" if is_tsv else ","

    @property
    def has_rows(self) -> bool:
        """Whether it is a table whose parts are counted in rows, not in bytes."""
        return self.format in ("parquet", "arrow")

    @property
    def has_keys(self) -> bool:
        """Whether its text is under a key or in a column."""
        return self.format != "text"

    def file_line(self, line: int) -> int:
        """Turn a line of the part into one of the file; rows of a table start at its first."""
        # A whole file is not opened again: a pipe would wait for another writer.
        if self.has_rows or self.path is None or not self.begin:
            return line
        return line + _lines_before(self.path, self.begin)


@dataclass(frozen=True)
class PassedOver:
    """An entry of a folder that is not read.

    Attributes:
        name: Its path.
        reason: Reason for not reading it.
    """

    name: str
    reason: str


def passed_over_dict(entries: Sequence[PassedOver]) -> dict[str, Any]:
    """Return what of the folders was not read, for ``--json``: the first hundred by name."""
    return {"count": len(entries), "entries": [asdict(entry) for entry in entries[:_NAMED]]}


def find_sources(
    where: str | Path, stdin_records: bool = False
) -> tuple[list[Source], list[PassedOver]]:
    """List the text files of a path.

    A folder means its .txt, .jsonl, .ndjson, .json, .csv, .tsv (also .gz and .zst of them),
    .parquet and .arrow files at any depth, sorted by path; one that `save_to_disk` of Hugging
    Face's datasets wrote, the files that it lists. A file given directly is plain text unless its
    name ends with one of the other suffixes.

    Args:
        where: File, folder, or ``-`` for standard input.
        stdin_records: Whether standard input holds JSON lines instead of text.

    Returns:
        The sources; and the other entries of a folder: hidden files and folders, linked folders,
        folders of tokens and of hash ids, other suffixes.

    Raises:
        MissingFileError: There is no such file or folder.
        InputError: The folder has no text files, or several data sets; or the name is not UTF-8.
    """
    refuse_empty(where, "the text")
    if str(where) == STDIN:
        return [Source("<stdin>", None, "jsonl" if stdin_records else "text")], []
    path = Path(where)
    files: list[Path] = [path]
    passed_over: list[PassedOver] = []
    if not path.exists():
        raise MissingFileError.at(where, _missing_hint(str(where)), file=str(where))
    if path.is_dir():
        listed = dataset_files(path)
        files, passed_over = _walk(path) if listed is None else (listed, [])
    elif _NOT_UTF8.search(str(path)):
        raise InputError(
            f"The name {str(path)!a} is not UTF-8 and cannot be written to a manifest.",
            "Rename the file.",
        )
    else:
        refuse_gguf(path)
    if not files:
        raise InputError(
            f"The folder {path} has no text files: {len(passed_over)} entries, none of them "
            f"{', '.join(_FORMATS)} (or .gz and .zst of all but the last two).",
            "Give a single file to read it regardless of its name.",
            folder=str(path),
            entries=len(passed_over),
        )
    return [
        Source(
            name=str(file),
            path=file,
            format=_FORMATS.get(_plain_suffix(file), "text"),
            compression=_COMPRESSIONS.get(file.suffix.lower()),
            size_bytes=file.stat().st_size if file.is_file() else None,
        )
        for file in files
    ], passed_over


def check_options(sources: Sequence[Source], split: Split | None, text_key: str | None) -> None:
    """Check that the options for a text have an effect on it.

    Args:
        sources: The files of the text.
        split: The end of a document in plain text; None if not given.
        text_key: Key or column of the text in records; None if not given.

    Raises:
        UsageError: A split is given but all are records, or a key but all are plain text.
    """
    name = sources[0].name if len(sources) == 1 else f"{sources[0].name} and the other inputs"
    if text_key is not None and not any(source.has_keys for source in sources):
        raise UsageError(
            f"--text-column {text_key} is for records (.jsonl, .ndjson, .json, .csv, .tsv, "
            f".parquet, .arrow): {name} is plain text.",
            "Leave out --text-column, or rename the file to match its contents.",
            text_key=text_key,
        )
    if split is not None and all(source.has_keys for source in sources):
        raise UsageError(
            f"--split {split} is for plain text: {name} has records, each of them a document.",
            "Leave out --split.",
            split=split,
        )


def _walk(folder: Path) -> tuple[list[Path], list[PassedOver]]:
    """Find the files to read below a folder, and the other entries; both sorted by path."""
    found: list[Path] = []
    unreadable: list[OSError] = []
    reasons: dict[str, str] = {}
    for base, folders, names in os.walk(folder, onerror=unreadable.append):
        for path in (Path(base, name) for name in [*folders, *names]):
            if reason := _reason_not_to_read(path):
                reasons[str(path)] = reason
            elif not path.is_dir():
                found.append(path)
        folders[:] = [name for name in folders if str(Path(base, name)) not in reasons]
    reasons |= {str(error.filename): str(error.strerror) for error in unreadable}
    return sorted(found), [PassedOver(name, reason) for name, reason in sorted(reasons.items())]


def _reason_not_to_read(path: Path) -> str:
    """Return the reason for not reading an entry of a folder; empty if it is read."""
    if path.name.startswith("."):
        return "hidden"
    if _NOT_UTF8.search(path.name):
        return "its name is not UTF-8"
    if path.is_dir():
        if path.is_symlink():
            return "a linked folder"
        # The manifest of tokens or hash ids is not a text.
        manifest = find_json(path / MANIFEST, {"schema": TEXT}, file_names=True)
        is_result = manifest is not None and manifest["schema"].startswith("engram.")
        return "results of this toolkit" if is_result else ""
    if not path.is_file():
        return "a broken link" if path.is_symlink() else "not a regular file"
    if describes_dataset(path):
        return "describes a data set"
    return "not text by its name" if text_suffix(path) is None else ""


def _missing_hint(name: str) -> str:
    hint = "Give a text file, a folder or - for stdin."
    if "://" in name:
        return f"URLs cannot be read: download it first. {hint}"
    if not _HUB_NAME.fullmatch(name) or _plain_suffix(Path(name)) in _FORMATS:
        return hint
    file = f"{name.rpartition('/')[2]}.jsonl"
    export = (
        f"import datasets as d; n = '{name}'; "
        f"d.load_dataset(n, d.get_dataset_config_names(n)[0], split='train').to_json('{file}')"
    )
    return (
        f"{hint} Export a data set of the hub first, with its first config and its train "
        f'split: python -c "{export}", then give {file}.'
    )


def text_suffix(path: Path) -> str | None:
    """Return the suffix for which a file of a folder is read as a text; None when it is not.

    Args:
        path: The file; of a compressed one, its suffix is that before .gz or .zst.
    """
    suffix = _plain_suffix(path)
    return suffix if suffix in _FORMATS and not describes_dataset(path) else None


def _plain_suffix(path: Path) -> str:
    *_, before, last = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    # Tables are not read from begin to end, so they cannot be compressed as a whole.
    is_packed = last in _COMPRESSIONS and before not in (".parquet", ".arrow")
    return before if is_packed else last


@lru_cache(maxsize=8)
def _lines_before(path: Path, begin: int) -> int:
    with path.open("rb") as file:
        blocks = (file.read(min(_BLOCK_BYTES, begin - at)) for at in range(0, begin, _BLOCK_BYTES))
        return sum(block.count(b"\n") for block in blocks)
