"""Tells who wrote a corpus of tokens, and opens it: this toolkit or another tool."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from engram.addressing.tokenizer_files import TOKENIZER, TokenizerFile
from engram.corpus.foreign.arrow_tokens import read_arrow_tokens, token_column
from engram.corpus.foreign.datatrove import read_datatrove, stated_tokenizer
from engram.corpus.foreign.foreign_tokens import ForeignTokens
from engram.corpus.foreign.llm_c import is_llm_c, read_llm_c
from engram.corpus.foreign.megatron import read_megatron
from engram.corpus.results.manifests import read_token_manifest
from engram.corpus.results.result_folder import MANIFEST
from engram.corpus.text.dataset_folders import dataset_files
from engram.corpus.text.sources import text_suffix
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens.mapped_tokens import MappedTokens, TokenShard
from engram.corpus.tokens.token_shards import StoredTokens, check_digest
from engram.errors import InputError, UsageError
from engram.storage.file_names import refuse_empty

Format = Literal["engram", "megatron", "datatrove", "llm.c", "datasets"]
# The next step where a folder holds no tokens.
FORMATS_HINT = (
    "Folders of engram corpus build, Megatron's .bin with its .idx, datatrove's .ds with its "
    ".ds.index, shards of llm.c, and data sets with lists of ids are read."
)
_WILD = set("*?[")


@dataclass(frozen=True, kw_only=True)
class FoundTokens:
    """A corpus of tokens whose files were found.

    Attributes:
        where: The corpus, as it was given.
        format: Who wrote it.
        files: Its files, in order; of a folder of this toolkit none.
        tokenizer: Name of the tokenizer that it states; None when it states none.
        column: The column of token ids in a data set.
    """

    where: Path
    format: Format
    files: tuple[Path, ...] = ()
    tokenizer: str | None = None
    column: str | None = None

    def options_of(self, options: TextOptions) -> TextOptions:
        """Return those options of texts that choose tokens, too: the column of a data set."""
        return TextOptions(text_key=options.text_key if self.column else None)

    def check_options(self, options: TextOptions) -> None:
        """Check that no option is given that has no effect on tokens.

        Args:
            options: Options of a text.

        Raises:
            UsageError: One is.
        """
        options.refuse_for_tokens(self.where, has_columns=self.column is not None)

    def note(self, tokenizer: TokenizerFile) -> str | None:
        """Say that the tokens state another name of a tokenizer; None when they do not.

        One tokenizer may have several names, so that nothing is raised. This toolkit's folder has a
        digest of its tokenizer, which `open` compares.

        Args:
            tokenizer: The tokenizer that reads them.
        """
        if self.format == "engram" or self.tokenizer is None:
            return None
        names = (self.tokenizer, tokenizer.name)
        if len({name.removesuffix(f"/{TOKENIZER}") for name in names}) == 1:
            return None
        return (
            f"{self.where} states that its tokens are of {self.tokenizer}, and they are read as "
            f"those of {tokenizer.name}: results are right if that is the same tokenizer."
        )

    def open(self, tokenizer: TokenizerFile, *, check_digests: bool = False) -> MappedTokens:
        """Map the tokens.

        Args:
            tokenizer: The tokenizer that reads them.
            check_digests: Whether to compare the sha256 of every file of this toolkit's folder.

        Raises:
            UsageError: Digests are to be compared, and only this toolkit's folders have some.
            MismatchError: They were made with another tokenizer. Where the corpus does not say with
                which one, only tokens that are read can tell, see `ForeignTokens`.
            CorruptFileError: A file is missing, torn, or contradicts itself or another one.
            InputError: It has no tokens, or is of an unknown version.
            MissingFileError: A file that belongs to another one is not there.
        """
        if self.format == "engram":
            stored = StoredTokens(self.where, check_digests=check_digests)
            check_digest(tokenizer, stored.tokenizer["name"], stored.tokenizer["sha256"])
            return stored
        if check_digests:
            raise UsageError(
                f"{self.where} has no digests to compare.",
                "Leave out --check (in Python, check_digests).",
            )
        return ForeignTokens(self.where, list(self._shards(tokenizer)), tokenizer)

    def _shards(self, tokenizer: TokenizerFile) -> Iterable[TokenShard]:
        if self.column is not None:
            column = self.column
            return chain.from_iterable(read_arrow_tokens(file, column) for file in self.files)
        if self.format == "llm.c":
            return read_llm_c(self.files, tokenizer)
        return map(read_megatron if self.format == "megatron" else read_datatrove, self.files)


def find_tokens(where: str | Path, text_key: str | None = None) -> FoundTokens | None:
    """Find a corpus of tokens.

    It is a folder of this toolkit; or a file of another tool, or all such files in a folder, or
    those that a pattern such as ``shards/train_*.bin`` names; or a data set of Hugging Face's
    datasets. A .bin with an .idx is Megatron's, and may be named without the suffix.

    Args:
        where: File, folder or pattern.
        text_key: Column of the tokens of a data set; ``input_ids`` when None.

    Returns:
        The corpus; None when there are no tokens of a known format, as in a text.

    Raises:
        InputError: Files of several formats, series or tokenizers lie in one folder, several data
            sets, or texts beside tokens.
        CorruptFileError: The manifest of this toolkit's folder, or the first file of a data set,
            is torn.
        MissingPackageError: A data set needs pyarrow.
    """
    refuse_empty(where, "the text")
    path = Path(where)
    if (path / MANIFEST).is_file():
        name = read_token_manifest(path)["tokenizer"]["name"]
        return FoundTokens(where=path, format="engram", tokenizer=name)
    listed = dataset_files(path) if path.is_dir() else None
    if listed is None and path.suffix.lower() == ".arrow" and path.is_file():
        listed = [path]
    if listed is not None:
        column = token_column(listed, text_key)
        if column is None:
            return None
        return FoundTokens(where=path, format="datasets", files=tuple(listed), column=column)
    files = _files(path)
    found = _kinds(files)
    if not found:
        return None
    # A folder with such files may be meant as a text.
    others = sorted({suffix for it in files if (suffix := text_suffix(it)) is not None})
    if len(found) > 1 or others:
        raise InputError(
            f"{path} holds {' and '.join([f'tokens of {kind}' for kind in found] + others)} files.",
            "Give a file, or a pattern in quotes, such as 'FOLDER/*.ds'.",
            folder=str(path),
        )
    ((kind, names),) = found.items()
    if kind == "llm.c":
        _check_series(path, names)
    name = _stated_by_all(path, names) if kind == "datatrove" else None
    return FoundTokens(where=path, format=kind, files=tuple(names), tokenizer=name)


def _kinds(files: list[Path]) -> dict[Format, list[Path]]:
    """Return those files that hold tokens, by their format."""
    found: dict[Format, list[Path]] = {}
    for file in files:
        if file.suffix == ".ds":
            found.setdefault("datatrove", []).append(file)
        elif file.suffix == ".bin" and file.with_suffix(".idx").is_file():
            found.setdefault("megatron", []).append(file)
        elif file.suffix == ".bin" and is_llm_c(file):
            found.setdefault("llm.c", []).append(file)
    return found


def _files(path: Path) -> list[Path]:
    """Return the files that a path may mean, sorted."""
    if path.is_dir():
        with suppress(OSError):  # told by whoever reads it as a text
            files = (it for it in path.iterdir() if not it.name.startswith("."))
            return sorted(it for it in files if it.is_file())
        return []
    if path.is_file():
        return [path.with_suffix(".bin") if path.suffix == ".idx" else path]
    if _WILD & set(path.name):
        return sorted(it for it in path.parent.glob(path.name) if it.is_file())
    beside = path.with_name(f"{path.name}.bin")
    return [beside] if beside.is_file() and beside.with_suffix(".idx").is_file() else []


def _stated_by_all(path: Path, files: list[Path]) -> str | None:
    """Return the tokenizer that files of datatrove state; None when none of them does.

    Raises:
        InputError: They state several.
    """
    stated = sorted({name for it in files if (name := stated_tokenizer(it)) is not None})
    if len(stated) > 1:
        raise InputError(
            f"{path} holds tokens of several tokenizers: {', '.join(stated[:8])}.",
            "Give one file, or a pattern in quotes that names the files of one tokenizer.",
            folder=str(path),
            tokenizers=stated,
        )
    return stated[0] if stated else None


def _check_series(path: Path, files: list[Path]) -> None:
    """Check that shards are of one series, so that what is to be held out is not trained on.

    Raises:
        InputError: They are not.
    """
    names = sorted({it.stem.rstrip("0123456789").rstrip("_-") for it in files})
    if path.is_dir() and len(names) > 1:
        raise InputError(
            f"{path} holds several series of shards: {', '.join(names[:8])}.",
            f"Give a pattern in quotes, such as '{path / names[0]}*.bin'.",
            folder=str(path),
            series=names,
        )
