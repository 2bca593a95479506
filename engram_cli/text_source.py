"""`--text` and `--corpus`: the text that a command reads, in one of two forms."""

from __future__ import annotations

from pathlib import Path

from engram.errors import MissingFileError, UsageError


def one_text(
    command: str,
    purpose: str,
    text: Path | None,
    corpus: Path | None,
    column: str | None = None,
) -> Path:
    """Return the text that was given.

    Args:
        command: Name of the command.
        purpose: What it does with a text, such as "train on".
        text: Value of ``--text``.
        corpus: Value of ``--corpus``.
        column: Value of ``--text-column``.

    Raises:
        UsageError: Neither is given, or both; or the corpus holds no tokens.
        MissingFileError: There is no such corpus.
    """
    given = [path for path in (text, corpus) if path is not None]
    if len(given) != 1:
        raise UsageError(
            f"{command} needs something to {purpose}: --text or --corpus."
            if not given
            else "--text and --corpus exclude each other.",
            "Give a text with --text FILE, or tokens with --corpus FOLDER.",
        )
    from engram.corpus.foreign.find_tokens import FORMATS_HINT, find_tokens

    if corpus is not None and find_tokens(corpus, column) is None:
        if not corpus.exists():
            raise MissingFileError.at(corpus, "Build token shards: engram corpus build.")
        raise UsageError(
            f"{corpus} holds no tokens.",
            f"Give texts with --text {corpus}, or tokens. {FORMATS_HINT}",
        )
    return given[0]
