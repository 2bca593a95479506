"""Forbids phrases that are not plain English in docstrings, comments and messages."""

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from support.paths import REPOSITORY

# "X is no table" for "X is not a table"; "there is no table" and "is no longer" are fine.
_IS_NO = re.compile(
    r"(?<!\bthere )\b(?:is|are|was|were|be) no (?!longer\b|more\b|less\b|such\b)\w+", re.I
)
_RIDDLE = re.compile(r"(?:What|Where|Which|How|Who|Whoever|Whatever)\b")
_BEHIND = re.compile(r"\bbehind\b", re.I)
_GLOSSARY = re.compile(
    r"\b(?:of ours|go on with|see onto the disk|told apart|as it is told)\b", re.I
)


def _files() -> list[Path]:
    folders = [REPOSITORY / "engram", REPOSITORY / "engram_cli"]
    return sorted(file for folder in folders for file in folder.rglob("*.py"))


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _texts() -> list[tuple[str, str]]:
    """Return every string and comment with its place; f-strings joined, spaces made one."""
    return [
        (f"{file.relative_to(REPOSITORY)}:{line}", " ".join(text.split()))
        for file in _files()
        for line, text in _texts_of(file)
    ]


def _texts_of(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    with file.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def _docstrings(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


@pytest.mark.parametrize("wrong", [_IS_NO, _BEHIND, _GLOSSARY], ids=["is no", "behind", "glossary"])
def test_no_text_has_a_forbidden_phrase(wrong: re.Pattern[str]) -> None:
    found = {
        f"{place}: ...{match.group()}..."
        for place, text in _texts()
        for match in wrong.finditer(text)
    }
    assert not found, "\n".join(sorted(found))


def test_no_docstring_opens_with_a_riddle() -> None:
    found = [
        f"{file.relative_to(REPOSITORY)}:{line}: {text.splitlines()[0]}"
        for file in _files()
        for line, text in _docstrings(file)
        if _RIDDLE.match(text)
    ]
    assert not found, "\n".join(found)


def test_the_patterns_find_what_they_forbid() -> None:
    assert _IS_NO.search("'atach' is no command")
    assert not _IS_NO.search("There is no file here, and it is no longer needed.")
    assert _RIDDLE.match("What came of hashing a text.")
    assert not _RIDDLE.match("Whether a file exists.")
    assert _BEHIND.search("the tokens behind a word")
