"""Documents from text: exact splits, every kind of file, and every way that a text can be wrong."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import sys
import threading
from pathlib import Path

import pytest

from engram.corpus.text import readers
from engram.corpus.text.readers import TextReader
from engram.corpus.text.text_options import TextOptions
from engram.errors import CorruptFileError, InputError, MissingFileError, MissingPackageError
from support.cli import run
from support.paths import BPE

SPLITS = ("paragraph", "line", "file")


def documents(where, **options):
    return [text for block in TextReader(where, TextOptions(**options)) for text in block.texts]


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one", ["one"]),
        ("one\n", ["one\n"]),
        ("one\ntwo\n\nthree", ["one\ntwo\n\n", "three"]),
        ("one\n\n\n\ntwo\n\n", ["one\n\n\n\n", "two\n\n"]),
        ("one\n \t\ntwo", ["one\n \t\n", "two"]),
        ("one\r\n\r\ntwo\r\n", ["one\r\n\r\n", "two\r\n"]),
        ("one\n\n  two", ["one\n\n", "  two"]),
        ("\n\n  one\n\ntwo", ["\n\n  one\n\n", "two"]),
        ("one\n\n   ", ["one\n\n   "]),
        ("ein\n\nzwölf 字 🙂\n\n", ["ein\n\n", "zwölf 字 🙂\n\n"]),
    ],
)
def test_paragraphs(tmp_path, text, expected):
    assert documents(write(tmp_path, "a.txt", text)) == expected


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 64, 2**20])
def test_documents_put_together_are_the_file(tmp_path, monkeypatch, block_bytes):
    whole = {}
    rng = random.Random(1)
    text = "".join(
        rng.choice(["a", "é", "字", " ", "\t", "\r", "\n", "\n\n", "b c"]) for _ in range(900)
    )
    path = write(tmp_path, "a.txt", text)
    for split in SPLITS:
        whole[split] = documents(path, split=split)
        assert "".join(whole[split]).encode() == path.read_bytes()
    assert whole["file"] == [text]
    assert whole["line"] == list(io.StringIO(text, newline="\n"))
    monkeypatch.setattr(readers, "_BLOCK_BYTES", block_bytes)
    for split in SPLITS:
        assert documents(path, split=split) == whole[split]


def test_blocks_know_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 8)
    text = "one\ntwo\n\nthree\n\n\nfour\nfive\n\nsix"
    path = write(tmp_path, "a.txt", text)
    places = {
        text: block.position(index)
        for block in TextReader(path)
        for index, text in enumerate(block.texts)
    }
    lines = {"one\ntwo\n\n": 1, "three\n\n\n": 4, "four\nfive\n\n": 7, "six": 10}
    assert places == {text: f"{path}:{line}" for text, line in lines.items()}


def test_bytes_read_reach_the_total(tmp_path):
    write(tmp_path, "a.txt", "one\n\ntwo")
    write(tmp_path, "b.txt.gz", gzip.compress(b"three\n\n" * 1000))
    reader = TextReader(tmp_path)
    read_bytes = [block.read_bytes for block in reader]
    assert read_bytes == sorted(read_bytes)
    assert read_bytes[-1] == reader.total_bytes == sum(f.stat().st_size for f in tmp_path.iterdir())


def test_folder_is_sorted_and_leaves_other_files_alone(tmp_path):
    write(tmp_path, "b.txt", "b")
    write(tmp_path, "a/z.txt", "az")
    write(tmp_path, "a/a.jsonl", '{"text": "aa"}\n')
    write(tmp_path, "a.txt", "a")
    write(tmp_path, "c.txt.gz", gzip.compress(b"c"))
    write(tmp_path, "image.png", b"\x89PNG")
    write(tmp_path, ".hidden/x.txt", "hidden")
    reader = TextReader(tmp_path)
    assert [text for block in reader for text in block.texts] == ["aa", "az", "a", "b", "c"]
    assert [(entry.name, entry.reason) for entry in reader.passed_over] == [
        (str(tmp_path / ".hidden"), "hidden"),
        (str(tmp_path / "image.png"), "not text by its name"),
    ]


def test_stdin_is_text_or_json_lines(monkeypatch):
    def stdin(data: bytes):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    stdin(b"one\n\ntwo")
    assert documents("-") == ["one\n\n", "two"]
    stdin(b'{"body": "one\\n"}\n{"body": "two"}')
    assert documents("-", text_key="body") == ["one\n", "two"]
    stdin(b"one\n\n\xff")
    with pytest.raises(InputError, match=r"<stdin>:3: byte 5 \(0xff\)"):
        documents("-")


def test_zstd(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    with pyarrow.CompressedOutputStream(str(tmp_path / "a.txt.zst"), "zstd") as file:
        file.write(b"one\n\ntwo" * 3000)
    assert "".join(documents(tmp_path / "a.txt.zst")) == "one\n\ntwo" * 3000
    (tmp_path / "b.txt.zst").write_bytes((tmp_path / "a.txt.zst").read_bytes()[:-9])
    with pytest.raises(CorruptFileError, match=r"b\.txt\.zst is truncated or not a zstd file"):
        documents(tmp_path / "b.txt.zst")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match="pyarrow"):
        documents(tmp_path / "a.txt.zst")


def test_jsonl(tmp_path):
    records = [{"text": "one\ntwo", "n": 1}, {"n": 2, "text": "drei ö"}]
    lines = "\n\n".join(json.dumps(record) for record in records) + "\n"
    path = write(tmp_path, "a.jsonl", lines)
    assert documents(path) == ["one\ntwo", "drei ö"]
    assert [block.position(0) for block in TextReader(path)] == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": ', "not JSON: Expecting value at column 10."),
        ("[1]", "a list, not an object"),
        ('{"body": "x"}', "no key 'text'; its keys are 'body'"),
        ('{"text": 3}', "'text' is a number, not a string"),
        ('{"text": ""}', "'text' is an empty string"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_wrong_records_are_named_or_skipped(tmp_path, line, problem):
    path = write(tmp_path, "a.jsonl", f'{{"text": "one"}}\n{line}\n{{"text": "two"}}\n')
    with pytest.raises(InputError, match=r"a\.jsonl:2: ") as caught:
        documents(path)
    assert problem in caught.value.message
    assert caught.value.details["line"] == 2
    reader = TextReader(path, TextOptions(on_error="skip"))
    assert [text for block in reader for text in block.texts] == ["one", "two"]
    assert reader.skipped == 1
    assert problem in reader.errors[0].message


@pytest.mark.parametrize("split", ["paragraph", "line"])
def test_invalid_utf8_names_line_and_byte(tmp_path, monkeypatch, split):
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 16)
    data = b"one\n\ntwo\nthree four five\n\nbad \xe9t\xe9\n\nlast"
    path = write(tmp_path, "a.txt", data)
    with pytest.raises(
        InputError, match=r"a\.txt:6: byte 30 \(0xe9\) is not valid UTF-8"
    ) as caught:
        documents(path, split=split)
    assert caught.value.details == {"file": str(path), "line": 6, "byte_offset": 30}
    reader = TextReader(path, TextOptions(split=split, on_error="skip"))
    kept = [text for block in reader for text in block.texts]
    assert "".join(kept).encode() in (
        data.replace(b"bad \xe9t\xe9\n\n", b""), data.replace(b"bad \xe9t\xe9\n", b""),
    )  # fmt: skip
    assert reader.skipped == 1


@pytest.mark.parametrize("block_bytes", [5, 13, 40])
def test_long_documents_are_named_or_skipped(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(readers, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 50)
    long = "x" * 30 + "\n" + " " * 30 + "y" * 30
    path = write(tmp_path, "a.txt", f"one\n\n{long}\n \n\ntwo\n\n{'z' * 51}")
    with pytest.raises(InputError, match=r"a\.txt:3: the document .* longer than") as caught:
        documents(path)
    assert "--split line" in caught.value.hint
    reader = TextReader(path, TextOptions(on_error="skip"))
    blocks = list(reader)
    assert [text for block in blocks for text in block.texts] == ["one\n\n", "two\n\n"]
    assert blocks[-1].position(len(blocks[-1].texts) - 1) == f"{path}:7"
    assert [error.details["line"] for error in reader.errors] == [3, 9]
    assert reader.skipped == 2
    with pytest.raises(InputError) as caught:
        documents(path, split="file")
    assert "--split paragraph or --split line" in caught.value.hint
    # A single line is cut by no other split.
    single = write(tmp_path, "b.txt", "z" * 51)
    for split in SPLITS:
        with pytest.raises(InputError) as caught:
            documents(single, split=split)
        assert "fold -s" in caught.value.hint


@pytest.mark.parametrize("block_bytes", [5, 10**6])
def test_a_binary_file_is_said_to_be_one(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(readers, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 50)
    for data, at in ((b"ELF\0" * 40, 3), (b"ELF\xff" * 40, 3), ("é".encode() * 9 + b"\0" * 99, 18)):
        (tmp_path / "a.bin").write_bytes(data)
        with pytest.raises(InputError, match=f"byte {at} .* looks like a binary file") as caught:
            list(TextReader(tmp_path / "a.bin"))
        assert caught.value.details["byte_offset"] == at
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 10**6)
    (tmp_path / "a.bin").write_bytes(b"x" * 8000 + b"\0\xff")
    with pytest.raises(InputError, match=r"byte 8,001 .* UTF-8: .*looks like a binary file"):
        list(TextReader(tmp_path / "a.bin"))
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 51)
    (tmp_path / "a.txt").write_bytes("é".encode() * 300)
    with pytest.raises(InputError, match="longer than"):
        list(TextReader(tmp_path / "a.txt"))


@pytest.mark.parametrize("split", ["paragraph", "file"])
def test_blank_lines_are_no_text(tmp_path, split):
    path = write(tmp_path, "a.txt", " \n\n\t\r\n \n")
    with pytest.raises(InputError, match=r"a\.txt contains only blank lines"):
        list(TextReader(path, TextOptions(split=split)))
    write(tmp_path, "b.txt", "\n\none")
    reader = TextReader(tmp_path, TextOptions(split=split, on_error="skip"))
    assert [text for block in reader for text in block.texts] == ["\n\none"]
    assert reader.skipped == 1


def test_documents_of_exactly_the_limit_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 7)
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 50)
    text = "x" * 48 + "\n\n" + "y" * 50
    assert documents(write(tmp_path, "a.txt", text)) == ["x" * 48 + "\n\n", "y" * 50]


def test_missing_and_empty(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        documents(tmp_path / "none.txt")
    with pytest.raises(InputError, match="has no text files"):
        documents(tmp_path)
    empty = write(tmp_path, "empty.txt", "")
    with pytest.raises(InputError, match="no text in"):
        documents(empty)
    write(tmp_path, "full.txt", "one")
    with pytest.raises(InputError, match=r"empty\.txt is empty"):
        documents(tmp_path)
    assert documents(tmp_path, on_error="skip") == ["one"]
    blank = write(tmp_path, "blank.jsonl", "\n\n")
    with pytest.raises(InputError, match="no text in"):
        documents(blank)


def test_truncated_gzip_is_named(tmp_path):
    rng = random.Random(0)
    text = "\n\n".join(str(rng.random()) for _ in range(200_000)).encode()
    path = write(tmp_path, "a.txt.gz", gzip.compress(text)[:-2000])
    with pytest.raises(CorruptFileError, match=r"a\.txt\.gz is truncated or not a gzip file"):
        documents(path)
    reader = TextReader(path, TextOptions(on_error="skip"))
    kept = "".join(text for block in reader for text in block.texts).encode()
    assert text.startswith(kept)
    assert len(kept) > 2**20
    assert reader.skipped == 1
    plain = write(tmp_path, "b.txt.gz", "no gzip at all")
    with pytest.raises(CorruptFileError, match=r"b\.txt\.gz"):
        documents(plain)


@pytest.fixture
def faults(tmp_path, monkeypatch):
    """A folder with one fault of each kind, and what is said of each."""
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 2**12)
    folder = tmp_path / "text"
    long = "\n\n".join(map(str, range(9000))).encode()
    write(folder, "a.jsonl", '{"text": "one"}\n{"text": nope}\n{"body": "x"}\n')
    write(folder, "b.txt", b"two\n\nthr\xff\n\nfour")
    write(folder, "c.txt", "")
    write(folder, "d.txt.gz", gzip.compress(long)[:-9])
    said = [
        "a.jsonl:2: not JSON: Expecting value at column 10.",
        "a.jsonl:3: the record has no key 'text'; its keys are 'body'.",
        "b.txt:3: byte 8 (0xff) is not valid UTF-8: invalid start byte.",
        "c.txt is empty: there is no text in it.",
        "d.txt.gz is truncated or not a gzip file, after ",
    ]
    pyarrow = pytest.importorskip("pyarrow")
    with pyarrow.CompressedOutputStream(str(folder / "e.txt.zst"), "zstd") as file:
        file.write(long)
    data = (folder / "e.txt.zst").read_bytes()
    (folder / "e.txt.zst").write_bytes(data[:-9])
    said.append("e.txt.zst is truncated or not a zstd file, after ")
    return folder, said


@pytest.mark.parametrize("command", ["corpus build", "hash"])
def test_the_command_names_faults_and_skips_them_when_told_to(faults, tmp_path, command):
    folder, said = faults
    words = [*command.split(), folder, "-t", BPE, "-o", tmp_path / "out", "--json"]
    error = run(*words).error(3)
    assert error["message"] == f"{folder}/{said[0]}"
    assert (error["details"]["file"], error["details"]["line"]) == (f"{folder}/a.jsonl", 2)
    assert not (tmp_path / "out").exists()
    done = run(*words, "--on-error", "skip")
    assert done.json()["skipped"] == len(said)
    assert "6 documents were skipped:" in done.stderr
    for line in said:
        assert f"  {folder}/{line}" in done.stderr
    if command == "corpus build":
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert len(manifest["problems"]) == manifest["counts"]["skipped"] == len(said)


def test_a_document_of_a_named_pipe_that_cannot_be_read_is_told(tmp_path):
    """The pipe is not opened again to count lines, which would wait for another writer."""
    path, found = tmp_path / "pipe.txt", []
    os.mkfifo(path)

    def read():
        with pytest.raises(InputError) as caught:
            list(TextReader(path))
        found.append(caught.value.message)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    path.write_bytes(b"good\n\nbad \xff\n")
    reading.join(10)
    assert [f"{path}:3: byte 10 " in message for message in found] == [True]
