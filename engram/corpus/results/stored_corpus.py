"""Folders of token shards as their manifests describe them, and the work that they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.arguments import checked
from engram.corpus.results.manifests import CORPUS_SCHEMA, read_manifest
from engram.corpus.results.result_folder import listed_bytes
from engram.corpus.text.readers import MAX_LISTED_PROBLEMS
from engram.corpus.text.sources import PassedOver, passed_over_dict


@dataclass(frozen=True, kw_only=True, repr=False)
class StoredCorpus:
    """A folder of token shards.

    Attributes:
        folder: The folder.
        manifest: Its manifest.
        written_bytes: Bytes of its files.
    """

    folder: Path
    manifest: dict[str, Any]
    written_bytes: int

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.folder}: {self.manifest['counts']['tokens']:,} tokens>"
        )

    @property
    def summary(self) -> dict[str, Any]:
        """Its counts, shards, tokenizer and rules."""
        return {
            "schema": CORPUS_SCHEMA,
            "output": str(self.folder),
            **self.manifest["counts"],
            "shards": len(self.manifest["shards"]),
            **{key: self.manifest[key] for key in ("dtype", "tokenizer", "split")},
            "output_bytes": self.written_bytes,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram corpus info --json`` prints."""
        return self.summary | {key: self.manifest[key] for key in ("problems", "inputs")}


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Notes from tokenising a text.

    Attributes:
        skipped: Documents that were left out.
        problems: Their problems, the first hundred.
        engines: What tokenised it, as sentences; a line below says why, where it has to.
        warnings: Why the fast engine was given up, where it was.
    """

    skipped: int = 0
    problems: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of_parts(cls, parts: Sequence[Notes]) -> Notes:
        """Combine the notes of the parts of a text."""
        problems = [problem for part in parts for problem in part.problems]
        return Notes(
            skipped=sum(part.skipped for part in parts),
            problems=tuple(problems[:MAX_LISTED_PROBLEMS]),
            engines=tuple(sorted({engine for part in parts for engine in part.engines})),
            warnings=tuple(sorted({warning for part in parts for warning in part.warnings})),
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class BuiltCorpus(StoredCorpus):
    """Result of `build_corpus`.

    Attributes:
        fresh_tokens: Tokens of the units that were done now.
        resumed_units: Units that an earlier run had finished.
        was_finished: Whether the whole corpus was there already.
        notes: Skipped documents, engines, and warnings that were met.
        passed_over: Entries of the text's folders that were not read.
        eos_token: The token that ends documents; None when none does.
        engine: Whether this machine did the work, or Ray.
        seconds: Time that it took.
    """

    fresh_tokens: int
    resumed_units: int
    was_finished: bool
    notes: Notes
    passed_over: tuple[PassedOver, ...] = ()
    eos_token: str | None = None
    engine: str = "local"
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram corpus build --json`` prints."""
        rate = round(self.fresh_tokens / self.seconds) if self.fresh_tokens else None
        return {
            **self.summary,
            "eos_token": self.eos_token,
            "passed_over": passed_over_dict(self.passed_over),
            "was_finished": self.was_finished,
            "resumed_units": self.resumed_units,
            "engine": self.engine,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": rate,
        }


@checked()
def describe_corpus(folder: str | Path) -> StoredCorpus:
    """Read what a corpus holds, from its manifest alone.

    Args:
        folder: Folder that `engram.build_corpus` wrote.

    Returns:
        The corpus; `to_dict()` is what ``engram corpus info --json`` prints.

    Raises:
        MissingFileError: There is no such folder, or it has no manifest.
        CorruptFileError: The manifest is torn, or that of something else.

    Examples:
        >>> import engram
        >>> engram.describe_corpus("shards").manifest["counts"]["documents"]
        2
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    return StoredCorpus(
        folder=folder, manifest=manifest, written_bytes=listed_bytes(folder, manifest)
    )
