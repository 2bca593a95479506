"""Records of .json, .ndjson and .csv files, marks of encodings, and options that have an effect."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from engram.corpus.building.units import plan_units
from engram.corpus.text import readers
from engram.corpus.text.readers import TextReader
from engram.corpus.text.sources import find_sources
from engram.corpus.text.text_options import TextOptions
from engram.errors import CorruptFileError, InputError, MissingFileError, UsageError
from support.cli import run
from support.paths import BPE
from support.peak_memory import run_measured

TEXTS = ["one", "two\nlines", 'a "quoted" ü 字 🙂', "comma, and \\ slash", "x" * 300]


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def documents(where, **options):
    return [text for block in TextReader(where, TextOptions(**options)) for text in block.texts]


def places(where, **options):
    blocks = TextReader(where, TextOptions(**options))
    return [block.position(i) for block in blocks for i in range(len(block.texts))]


def as_lines(records, **options):
    return "".join(json.dumps(record, **options) + "\n" for record in records)


RECORDS = [
    {"id": i, "text": text, "meta": {"text": [1, {"a": "}]"}]}} for i, text in enumerate(TEXTS)
]


@pytest.mark.parametrize("block_bytes", [1, 3, 17, 2**20])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", as_lines(RECORDS)),
        ("a.ndjson", as_lines(RECORDS)),
        ("a.json", "\n \n" + as_lines(RECORDS, ensure_ascii=False)),
        ("a.json", json.dumps(RECORDS)),
        ("a.json", json.dumps(RECORDS, ensure_ascii=False, separators=(",", ":"))),
        ("a.json", "\r\n" + json.dumps(RECORDS, indent=2) + "\n\n"),
        ("a.json", "\n".join(json.dumps(record, indent=1) for record in RECORDS)),
        ("a.JSON", "".join(map(json.dumps, RECORDS))),
    ],
)
def test_a_json_is_what_it_holds(tmp_path, monkeypatch, name, data, packed, block_bytes):
    monkeypatch.setattr(readers, "_BLOCK_BYTES", block_bytes)
    for mark in ("", "\ufeff"):
        path = write(tmp_path, name + packed, mark + data)
        assert documents(path) == TEXTS
        assert documents(path, text_key="text") == TEXTS


def test_a_single_object_is_one_record(tmp_path):
    for indent in (None, 2):
        path = write(tmp_path, "a.json", json.dumps({"text": "one"}, indent=indent))
        assert documents(path) == ["one"]
        with pytest.raises(InputError, match="no key 'body'; its keys are 'text'"):
            documents(path, text_key="body")


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (
            "plain words\n",
            InputError,
            r"a\.json must start with a JSON object or a list of objects, got 'p'",
        ),
        ('"a text"', InputError, "must start with a JSON object"),
        ("3", InputError, "must start with a JSON object"),
        ('["one"]', InputError, r"a\.json:1: a string, not an object"),
        ('[{"text": "one"}, 12]', InputError, r"a\.json:2: a number, not an object"),
        ('[{"text": "one"} {"text": "two"}]', CorruptFileError, "record 1 is not JSON: ',' or ']'"),
        ('[{"text": "one"}, {"text": nope}]', CorruptFileError, "record 2 is not JSON: Expecting"),
        ('[{"text": "one"}, {"text": "tw', CorruptFileError, "record 2 is not JSON: Unterminated"),
        ('[{"text": "one"}', CorruptFileError, "record 1 is not JSON"),
        ('[{"text": "one"}] x', CorruptFileError, "continues after the end of the list"),
        ("[" * 100_000, CorruptFileError, "record 1 is not JSON"),
        ('[{"n": ' + "1" * 5000 + "}]", CorruptFileError, "record 1 is not JSON"),
        (b'[{"text": "one"}, {"text": "t\xff"}]', CorruptFileError, "byte 29 is not valid UTF-8"),
        ("[]", InputError, "There is no text in"),
        (" \n", InputError, "There is no text in"),
        ("", InputError, "a.json is empty"),
    ],
)
def test_what_is_wrong_with_a_json_is_said(tmp_path, data, error, said):
    path = write(tmp_path, "a.json", data)
    with pytest.raises(error, match=said):
        documents(path)
    reader = TextReader(path, TextOptions(on_error="skip"))
    kept = [text for block in reader.blocks() for text in block.texts]
    if b'"one"}' in (data if isinstance(data, bytes) else data.encode()):
        assert kept == ["one"]
        assert reader.skipped == 1


def test_records_of_a_list_are_counted(tmp_path):
    path = write(tmp_path, "a.json", json.dumps([RECORDS[0], {"text": 3}, *RECORDS[1:]]))
    reader = TextReader(path, TextOptions(on_error="skip"))
    blocks = list(reader)
    assert [text for block in blocks for text in block.texts] == TEXTS
    assert blocks[-1].position(0) == f"{path}:3"
    assert [error.message for error in reader.errors] == [
        f"{path}:2: 'text' is a number, not a string."
    ]


def test_a_large_list_is_read_in_little_memory(tmp_path):
    path = tmp_path / "a.json"
    with path.open("w") as file:
        file.write("[")
        for i in range(400):
            file.write(("," if i else "") + json.dumps({"text": f"{i} " * 40_000}))
        file.write("]")
    assert path.stat().st_size > 50e6
    script = "import sys\nfrom engram.corpus.text.readers import TextReader\n"
    script += "print(sum(len(b.texts) for b in TextReader(sys.argv[1])))"
    done, peak_bytes = run_measured([sys.executable, "-c", script, str(path)], tmp_path)
    assert (done.returncode, done.stdout) == (0, b"400\n"), done.stderr
    assert peak_bytes < 100e6


def test_values_that_are_too_long_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 100)
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 16)
    path = write(tmp_path, "a.json", json.dumps([RECORDS[0], RECORDS[-1]]))
    with pytest.raises(CorruptFileError, match="record 2 .* longer than 100 B"):
        documents(path)
    for long in (
        '"' + "x\n" * 60 + '",2\ntwo,3\n',
        "x" * 150 + "\ntwo,3\n",
        '"never closed' + "\n" * 99,
    ):
        path = write(tmp_path, "a.csv", f"text,n\none,1\n{long}")
        reader = TextReader(path, TextOptions(on_error="skip"))
        assert [text for block in reader for text in block.texts] == ["one"]
        assert "longer than 100 B" in reader.errors[0].message
        assert reader.skipped == 1


# --- csv ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", [1, 5, 2**20])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_csv(tmp_path, monkeypatch, block_bytes, ends):
    monkeypatch.setattr(readers, "_BLOCK_BYTES", block_bytes)
    out = io.StringIO(newline="")
    rows = csv.writer(out, lineterminator=ends)
    rows.writerow(["id", "text", "body"])
    rows.writerows([i, text, f"body {i}"] for i, text in enumerate(TEXTS))
    for name in ("a.csv", "a.csv.gz"):
        for mark in ("", "\ufeff"):
            path = write(tmp_path, name, mark + out.getvalue() + ends * 2)
            assert documents(path) == TEXTS
            assert documents(path, text_key="body") == [f"body {i}" for i in range(len(TEXTS))]
    assert places(path) == [f"{path}:{line}" for line in (2, 3, 5, 6, 7)]


def test_what_is_wrong_with_a_csv_is_said(tmp_path):
    path = write(
        tmp_path, "a.csv", b'n,text\n1,one\n2\n3,"\n4,t\xffo\n"5"x,five\n\n6,six\n7,\n8,eight\n'
    )
    with pytest.raises(InputError, match=r"a\.csv:3: the row has 1 field"):
        documents(path)
    path = write(
        tmp_path, "a.csv", b'n,text\n1,one\n2\n4,t\xffo\n"5"x,five\n\n6,six\n7,\n8,eight\n'
    )
    reader = TextReader(path, TextOptions(on_error="skip"))
    assert [text for block in reader for text in block.texts] == ["one", "six", "eight"]
    said = [error.message.removeprefix(str(path)) for error in reader.errors]
    assert said[:2] == [
        ":3: the row has 1 field, and 'text' is not among them.",
        ":4: 'text' is not valid UTF-8 at character 1.",
    ]
    assert said[2].startswith(":5: not a row of a .csv: ")
    assert said[3] == ":8: 'text' is an empty string."
    with pytest.raises(InputError, match="no column 'body'; its columns are 'n', 'text'") as caught:
        documents(path, text_key="body")
    assert "--text-column" in caught.value.hint
    with pytest.raises(InputError, match=r"a\.csv:2: not a row .*unexpected end of data"):
        documents(write(tmp_path, "a.csv", 'text\n"never closed\nand on'))
    assert csv.field_size_limit() == 131_072


# --- marks of encodings ---------------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", [1, 4, 2**20])
def test_a_byte_order_mark_is_skipped_at_the_start_of_a_file_alone(
    tmp_path, monkeypatch, block_bytes
):
    monkeypatch.setattr(readers, "_BLOCK_BYTES", block_bytes)
    text = "one\n\n\ufefftwo\n\nthree"
    path = write(tmp_path, "a.txt", "\ufeff" + text)
    assert documents(path) == ["one\n\n", "\ufefftwo\n\n", "three"]
    units = plan_units(find_sources(path)[0], "paragraph", 6)
    parts = [documents(unit) for unit in units]
    assert len(parts) > 1
    assert [text for part in parts for text in part] == documents(path)
    bad = write(tmp_path, "b.txt", codecs.BOM_UTF8 + b"ab\xff")
    with pytest.raises(InputError, match=r"b\.txt:1: byte 5 \(0xff\)"):
        documents(bad)
    with pytest.raises(InputError, match=r"c\.txt is empty"):
        documents(write(tmp_path, "c.txt", codecs.BOM_UTF8))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_other_encodings_are_named_with_what_converts_them(tmp_path, encoding):
    marks = {"utf-16-be": codecs.BOM_UTF16_BE}
    text = "one\n\ntwo ü\n\n" * 50
    path = write(tmp_path, "a b.txt", marks.get(encoding, b"") + text.encode(encoding))
    name = encoding[:6].upper()
    with pytest.raises(InputError, match=f"is in {name}") as caught:
        documents(path)
    assert len(plan_units(find_sources(path)[0], "paragraph", 60)) == 1
    write(tmp_path, "z.txt", "good")
    reader = TextReader(tmp_path, TextOptions(on_error="skip"))
    assert [text for block in reader for text in block.texts] == ["good"]
    command = caught.value.hint.removeprefix("Convert it first: ")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert "".join(documents(tmp_path / "utf8.txt")).removeprefix("\ufeff") == text
    record = marks.get(encoding, b"") + '{"text": "a"}'.encode(encoding)
    path = write(tmp_path, "r.jsonl.gz", record)
    with pytest.raises(InputError, match=f"is in {name}") as caught:
        documents(path)
    command = caught.value.hint.removeprefix("Convert it first: ")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert documents(tmp_path / "utf8.jsonl") == ["a"]


# --- units, folders and options -------------------------------------------------------------------


def test_json_lines_are_cut_into_units_and_lists_are_not(tmp_path):
    records = [{"text": f"record {i}"} for i in range(200)]
    path = write(tmp_path, "a.json", as_lines(records))
    units = plan_units(find_sources(path)[0], "paragraph", 500)
    assert len(units) > 5
    assert [t for unit in units for t in documents(unit)] == [r["text"] for r in records]
    for name, data in (
        ("b.json", json.dumps(records, indent=1)),
        ("c.csv", "text\n" + "x\n" * 900),
    ):
        assert len(plan_units(find_sources(write(tmp_path, name, data))[0], "paragraph", 500)) == 1


def test_what_a_folder_has_besides_is_told(tmp_path):
    folder = tmp_path / "texts"
    for name in ("b.csv", "c.ndjson", "d.json", "e/f.txt"):
        data = {"csv": "text\none\n", "txt": "four"}.get(name[-3:], '{"text": "two"}\n')
        write(folder, name, data)
    write(folder, ".git/x.txt", "hidden")
    write(folder, ".hidden.txt", "hidden")
    write(folder, "image.png", b"\x89PNG")
    write(tmp_path, "elsewhere/g.txt", "linked")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "gone.txt").symlink_to(tmp_path / "none")
    (folder / "file.txt").symlink_to(tmp_path / "elsewhere" / "g.txt")
    write(folder, "tokens/manifest.json", '{"schema": "engram.corpus/1"}')
    write(folder, "packed.parquet.gz", b"PAR1")
    write(folder, "shards/manifest.json", '{"schema": 3, "text": "five"}')
    os.mkfifo(folder / "pipe.txt")
    os.close(os.open(os.fsencode(folder) + b"/\xff.txt", os.O_CREAT))
    reader = TextReader(folder)
    assert documents(reader.sources) == ["one", "two", "two", "four", "linked", "five"]
    found = {Path(entry.name).name: entry.reason for entry in reader.passed_over}
    assert found == {
        ".git": "hidden",
        ".hidden.txt": "hidden",
        "gone.txt": "a broken link",
        "image.png": "not text by its name",
        "linked": "a linked folder",
        "packed.parquet.gz": "not text by its name",
        "pipe.txt": "not a regular file",
        "tokens": "results of this toolkit",
        "\udcff.txt": "its name is not UTF-8",
    }
    with pytest.raises(InputError, match="is not UTF-8"):
        documents(os.fsdecode(os.fsencode(folder) + b"/\xff.txt"))


def test_options_without_effect_are_refused(tmp_path):
    plain = write(tmp_path, "a.txt", "one")
    records = write(tmp_path, "b/a.jsonl", '{"text": "two"}')
    with pytest.raises(UsageError, match="--text-column body is for records"):
        TextReader(plain, TextOptions(text_key="body"))
    with pytest.raises(UsageError, match="--split line is for plain text"):
        TextReader(records, TextOptions(split="line"))
    assert documents(tmp_path, split="line", text_key="text") == ["one", "two"]


def test_names_of_the_hub_get_a_way_to_their_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, file in (("wikitext", "wikitext"), ("allenai/c4", "c4"), ("a/b-1.0", "b-1.0")):
        with pytest.raises(MissingFileError) as caught:
            TextReader(name)
        line = caught.value.hint.split('python -c "')[1].split('", then')[0]
        compile(line, "hint", "exec")
        assert f"n = '{name}'" in line
        assert line.endswith(f".to_json('{file}.jsonl')")
    for name in ("corpus.txt", "a/b.jsonl", "/data/x", "a/b/c"):
        with pytest.raises(MissingFileError) as caught:
            TextReader(name)
        assert "datasets" not in caught.value.hint


def test_hash_and_build_count_the_same_tokens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.json", json.dumps(RECORDS))
    words = f"a.json -t {BPE} --json --text-key=text --threads 1".split()
    counts = []
    for command in ("corpus build -o out --overwrite", "hash"):
        for more in ((), ("--no-eos",)):
            payload = run(*command.split(), *words, *more).json()
            counts.append((payload["documents"], payload["tokens"], payload["eos_token"]))
    assert counts[:2] == counts[2:]
    assert counts[0] == (len(TEXTS), counts[1][1] + len(TEXTS), "<eos>")
    assert counts[1][2] is None


# --- parquet --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["dictionary", "prefixes"])
def test_a_small_parquet_of_large_rows_takes_little_memory(tmp_path, encoding):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    options = {"use_dictionary": encoding == "dictionary"}
    if encoding == "prefixes":
        options["column_encoding"] = {"text": "DELTA_BYTE_ARRAY"}
    pq.write_table(pa.table({"text": ["ab " * 500_000] * 100}), path, **options)
    assert path.stat().st_size < 100_000
    script = "import sys\nfrom engram.corpus.text.readers import TextReader\n"
    script += "print(sum(len(b.texts) for b in TextReader(sys.argv[1])))"
    done, peak_bytes = run_measured([sys.executable, "-c", script, str(path)], tmp_path)
    assert (done.returncode, done.stdout) == (0, b"100\n"), done.stderr
    assert peak_bytes < 300e6


def test_rows_of_a_parquet_are_those_that_were_written(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rng = random.Random(3)
    texts = ["".join(rng.choices("aé字 \n", k=rng.randrange(1, 90))) for _ in range(3000)]
    texts[100:900] = ["the same"] * 800
    table = pa.table({"n": range(len(texts)), "text": texts})
    path = tmp_path / "a.parquet"
    for options in (
        {},
        {"use_dictionary": False},
        {"data_page_version": "2.0", "compression": "gzip", "row_group_size": 700},
        {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
    ):
        pq.write_table(table, path, **options)
        assert documents(path) == texts
    pq.write_table(pa.table({"text": table["text"].dictionary_encode()}), path)
    assert documents(path) == texts
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 2000)
    pq.write_table(pa.table({"text": ["one", "z" * 2001, None, "two"]}), path)
    reader = TextReader(path, TextOptions(on_error="skip"))
    assert [text for block in reader for text in block.texts] == ["one", "two"]
    assert [error.message.split(":")[1] for error in reader.errors] == ["2", "3"]
    pq.write_table(pa.table({"text": [[1, 2], [3]]}), path)
    with pytest.raises(InputError, match="the column 'text' must be strings, got list"):
        documents(path)


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_tab_separated_tables(tmp_path, packed):
    data = 'id\ttext\n1\t"two\nlines"\n2\tcomma, and; more\n'
    assert documents(write(tmp_path, f"a.tsv{packed}", data)) == ["two\nlines", "comma, and; more"]


@pytest.mark.parametrize("mark", ["\t", ";", "|"])
def test_other_separators_are_named(tmp_path, mark):
    path = write(tmp_path, "a.csv", f"id{mark}text\n1{mark}one\n")
    with pytest.raises(InputError) as raised:
        documents(path, text_key="text")
    assert repr(mark) in raised.value.hint


def test_a_file_without_the_column_is_skipped_when_told_to(tmp_path):
    write(tmp_path, "a.csv", "id;text\n1;one\n")
    write(tmp_path, "b.csv", "id,text\n1,two\n")
    reader = TextReader(tmp_path, TextOptions(on_error="skip"))
    assert [text for block in reader for text in block.texts] == ["two"]
    assert reader.skipped == 1
    with pytest.raises(InputError, match=r"no text in .*a.csv. Skipped: .* no column 'text'"):
        documents(tmp_path / "a.csv", on_error="skip")


@pytest.mark.parametrize("name", ["a.tar", "a.txt", "a.jsonl", "a.tar.gz"])
def test_binary_files_are_no_text(tmp_path, name):
    path = write(tmp_path, name, b"file.txt" + bytes(100) + b"some text\n\nmore text")
    with pytest.raises(InputError, match=r"byte 8 \(0x00\) is not text"):
        documents(path)


def test_values_that_are_no_string_have_their_names_in_json(tmp_path):
    for value, name in ((None, "null"), (1, "a number"), (True, "true or false"), ([], "a list")):
        path = write(tmp_path, "a.jsonl", as_lines([{"text": value}]))
        with pytest.raises(InputError, match=f"'text' is {name}, not a string"):
            documents(path)


def test_an_address_is_told_to_be_downloaded(tmp_path):
    with pytest.raises(MissingFileError) as raised:
        find_sources("https://example.com/a.txt")
    assert "https://example.com/a.txt" in raised.value.message
    assert "download it first" in raised.value.hint
