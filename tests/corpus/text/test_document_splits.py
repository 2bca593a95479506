"""Where documents end: the same as a simple splitter says, however the text comes in blocks."""

from __future__ import annotations

import gzip
import random
import re
import sys

import pytest

from engram.corpus.text import readers
from engram.corpus.text.documents import BLANK, DocumentEnds
from engram.corpus.text.readers import TextReader
from engram.corpus.text.text_options import TextOptions
from engram.errors import InputError
from support.peak_memory import run_measured

PIECES = ("a", "é", "字", " ", "  ", "\t", "\r", "\n", "\n", "\n\n", "\r\n", "b c", "\x0b", "\xa0")


def paragraphs(text):
    """Cut a text into paragraphs the simple way: all of it at once, blank run by blank run."""
    if not text.strip(BLANK.decode()):
        return []
    cuts = [0]
    for run in re.finditer("[ \t\r\n]+", text):
        is_inside = run.start() > 0 and run.end() < len(text)
        if is_inside and run.group().count("\n") > 1:
            cuts.append(run.start() + run.group().rindex("\n") + 1)
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def random_text(rng):
    blanks = rng.random()
    pieces = [rng.choice(PIECES[3:11] if rng.random() < blanks else PIECES) for _ in range(60)]
    return "".join(pieces[: rng.randrange(1, 60)])


@pytest.mark.parametrize("seed", range(6))
def test_paragraphs_are_those_of_a_simple_splitter(tmp_path, monkeypatch, seed):
    rng = random.Random(seed)
    path = tmp_path / "a.txt"
    for _ in range(60):
        text = random_text(rng)
        path.write_bytes(text.encode())
        monkeypatch.setattr(readers, "_BLOCK_BYTES", rng.choice([1, 2, 3, 5, 8, 1000]))
        blocks = list(TextReader(path, TextOptions(on_error="skip")).blocks())
        found = [text for block in blocks for text in block.texts]
        assert found == paragraphs(text), text
        places = [block.position(i) for block in blocks for i in range(len(block.texts))]
        lines = [1 + "".join(found[:i]).count("\n") for i in range(len(found))]
        assert places == [f"{path}:{line}" for line in lines]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_skipped_leaves_the_other_documents_as_they_are(tmp_path, monkeypatch, seed):
    rng = random.Random(seed)
    path = tmp_path / "a.txt"
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 12)
    for _ in range(80):
        # Blanks after the last newline of a run may make it too long before anybody can tell.
        text = re.sub("[ \t\r]{3,}", " ", random_text(rng).replace("\n\n\n", "\n"))
        path.write_bytes(text.encode())
        monkeypatch.setattr(readers, "_BLOCK_BYTES", rng.choice([1, 2, 3, 5, 8, 12]))
        reader = TextReader(path, TextOptions(on_error="skip"))
        blocks = list(reader.blocks())
        expected = paragraphs(text)
        kept = [text for text in expected if len(text.encode()) <= 12]
        found = [text for block in blocks for text in block.texts]
        assert found == kept, text
        assert reader.skipped == len(expected) - len(kept) or not expected
        places = [block.position(i) for block in blocks for i in range(len(block.texts))]
        starts = [1 + "".join(expected[:i]).count("\n") for i in range(len(expected))]
        lines = [at for at, doc in zip(starts, expected, strict=True) if doc in kept]
        assert places == [f"{path}:{line}" for line in lines]


def test_lines_tell_their_first_and_last_end():
    ends = DocumentEnds("line", 10)
    assert ends.feed(b"one\ntwo\nthree\nfo") == [14, 24]
    assert ends.feed(b"ur") == []
    assert ends.feed(b"\n") == [29]
    assert ends.finish() == []
    assert ends.feed(b"x") == []
    assert ends.finish() == [30]


_READ = """
import sys, time
from engram.corpus.text.readers import TextReader

for path in sys.argv[1:]:
    started = time.perf_counter()
    print(sum(len(text) for block in TextReader(path) for text in block.texts))
    assert time.perf_counter() - started < 2, path
"""


def test_blank_lines_take_linear_time_and_little_memory(tmp_path):
    data = b"x" + b"\n" * 2**25 + b"y"
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(data[:-1], 1))
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "one"}' + data[1:-1] + b'{"text": "two"}')
    names = [str(path) for path in sorted(tmp_path.iterdir())]
    done, peak_bytes = run_measured([sys.executable, "-c", _READ, *names], tmp_path)
    assert done.returncode == 0, done.stderr
    assert [int(line) for line in done.stdout.split()] == [2**25 + 2, 2**25 + 1, 6]
    assert peak_bytes < 300e6


def test_more_blank_lines_than_a_document_may_have(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 5000)
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 100)
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\n" + b"\n" * 6000 + b"  two\n\n" + b" " * 6000 + b"three\n\nfour")
    with pytest.raises(InputError, match=r"a\.txt:1: .* longer than") as caught:
        list(TextReader(path))
    assert "--split line" in caught.value.hint
    reader = TextReader(path, TextOptions(on_error="skip"))
    blocks = list(reader)
    assert [text for block in blocks for text in block.texts] == ["four"]
    assert [error.details["line"] for error in reader.errors] == [1, 6003]
    assert blocks[-1].position(0) == f"{path}:6007"
