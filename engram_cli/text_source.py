"""Finds out what a command is to read: a text, or token shards."""

from pathlib import Path

from engram.errors import MissingFileError, UsageError


def text_or_corpus(command: str, text: Path | None, corpus: Path | None) -> Path:
    """Return the one of ``--text`` and ``--corpus`` that is given.

    Args:
        command: Name of the command.
        text: A file or a folder of texts.
        corpus: A folder of token shards.

    Raises:
        UsageError: Neither is given, or both; or the corpus holds no token shards.
        MissingFileError: The corpus does not exist.
    """
    given = [path for path in (text, corpus) if path is not None]
    if len(given) != 1:
        raise UsageError(
            f"{command} needs something to read: --text or --corpus."
            if not given
            else "--text and --corpus exclude each other.",
            "Give a text with --text FILE, or token shards with --corpus FOLDER.",
        )
    from engram.corpus.results.result_folder import MANIFEST

    if corpus is not None and not (corpus / MANIFEST).is_file():
        if not corpus.exists():
            raise MissingFileError.at(corpus, "Build token shards: engram corpus build.")
        raise UsageError(
            f"{corpus} holds no token shards.",
            f"Give texts with --text {corpus}, or build shards: engram corpus build.",
        )
    return given[0]
