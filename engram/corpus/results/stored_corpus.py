"""`StoredCorpus`: a folder of token shards, as its manifest describes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.corpus.results.manifests import CORPUS_SCHEMA, read_manifest
from engram.corpus.results.result_folder import listed_bytes


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
        manifest = self.manifest
        return {
            "schema": CORPUS_SCHEMA,
            "output": str(self.folder),
            **manifest["counts"],
            "shards": len(manifest["shards"]),
            "dtype": manifest["dtype"],
            "tokenizer": manifest["tokenizer"],
            "split": manifest["split"],
            "output_bytes": self.written_bytes,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram corpus info --json`` prints."""
        return self.summary | {key: self.manifest[key] for key in ("problems", "inputs")}


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
