"""Texts in .arrow files, as Hugging Face's datasets writes them, and nanochat's shards."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engram.corpus.building import units
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.text import readers
from engram.corpus.text.readers import TextReader
from engram.corpus.text.sources import find_sources
from engram.corpus.text.text_options import TextOptions
from engram.corpus.verify.verify_corpus import verify_corpus
from engram.errors import CorruptFileError, InputError
from support import foreign_corpora as foreign
from support.paths import BPE

TEXTS = [f"Über {i} 字 saw the Milky Way.\n\n" * (1 + i % 5) for i in range(300)]


def texts_of(where, **options):
    reader = TextReader(where, TextOptions(**options))
    return [text for block in reader for text in block.texts]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(TEXTS),
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS).dictionary_encode(),
    ],
)
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_rows_are_documents_in_the_order_of_the_state(tmp_path, column, compression):
    folder = foreign.dataset(
        tmp_path / "d", {"n": pa.array(range(300)), "body": column}, 3, 40, compression
    )
    assert texts_of(folder, text_key="body") == TEXTS
    sources, passed_over = find_sources(folder)
    assert ([source.path.name[5:10] for source in sources], passed_over) == (
        ["00000", "00001", "00002"],
        [],
    )
    assert texts_of(sources[1].path, text_key="body") == TEXTS[100:200]


def test_a_folder_of_data_sets_is_read_at_any_depth(tmp_path):
    foreign.dataset(tmp_path / "a", {"text": pa.array(TEXTS[:9])})
    foreign.dataset(tmp_path / "b" / "c", {"text": pa.array(TEXTS[9:20])})
    (tmp_path / "z.jsonl").write_text(json.dumps({"text": "end"}))
    reader = TextReader(tmp_path)
    assert [text for block in reader for text in block.texts] == [*TEXTS[:20], "end"]
    assert {(entry.name.rpartition("/")[2], entry.reason) for entry in reader.passed_over} == {
        ("state.json", "describes a data set"),
        ("dataset_info.json", "describes a data set"),
    }


def test_blocks_know_their_rows_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 500)
    folder = foreign.dataset(tmp_path / "d", {"text": pa.array(TEXTS)}, files=2)
    reader = TextReader(folder)
    blocks = list(reader)
    assert len(blocks) > 20
    second = str(folder / "data-00001-of-00002.arrow")
    places = [block.position(index) for block in blocks for index in range(len(block.texts))]
    assert places[0].endswith("data-00000-of-00002.arrow:1")
    assert places[150:] == [f"{second}:{row}" for row in range(1, 151)]
    read = [block.read_bytes for block in blocks]
    assert read == sorted(read)
    assert 0 < reader.total_bytes - read[-1] < 100  # the end of the stream


def test_a_corpus_does_not_depend_on_how_files_are_cut(tmp_path, monkeypatch):
    folder = foreign.dataset(tmp_path / "d", {"text": pa.array(TEXTS)}, files=2, batch_rows=10)
    lines = tmp_path / "x.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    build_corpus(lines, BPE, tmp_path / "one")
    monkeypatch.setattr("engram.corpus.building.build_corpus.UNIT_BYTES", 3000)
    sources, _ = find_sources(folder)
    parts = units.plan_units(sources, "paragraph", 3000)
    assert len(parts) > 5
    assert [text for part in parts for text in texts_of(list(part))] == TEXTS
    build_corpus(folder, BPE, tmp_path / "two", workers=2)
    for name in ("tokens-00000.npy", "documents-00000.npy"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    checks = {check.name: check.verdict for check in verify_corpus(tmp_path / "two")}
    assert checks["text"] == "ok"


def test_wrong_columns_and_rows_are_named(tmp_path):
    columns = {"text": pa.array(["a", None, ""]), "ids": pa.array([[1]] * 3)}
    folder = foreign.dataset(tmp_path / "d", columns)
    with pytest.raises(InputError, match=r"no column 'nope'; its columns are 'text', 'ids'"):
        texts_of(folder, text_key="nope")
    with pytest.raises(InputError, match=r"the column 'ids' must be strings, got list"):
        texts_of(folder, text_key="ids")
    with pytest.raises(InputError, match=r"arrow:2: 'text' is null"):
        texts_of(folder)
    assert texts_of(folder, on_error="skip") == ["a"]


def test_torn_files_and_wrong_texts_are_refused(tmp_path):
    folder = foreign.dataset(tmp_path / "d", {"text": pa.array(TEXTS)})
    (path,) = folder.glob("*.arrow")
    data = path.read_bytes()
    for size in (0, 7, 100, len(data) // 2, len(data) - 8, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(CorruptFileError, match="is truncated or not a stream"):
            texts_of(folder)
    path.write_bytes(data.replace("字".encode(), b"\xff\xff\xff", 1))
    with pytest.raises(CorruptFileError, match="UTF8"):
        texts_of(folder)


def test_shards_of_nanochat_are_read_as_they_are(tmp_path):
    """As its repackaging writes them: texts alone, zstd, groups of 1,024 rows, no dictionary."""
    texts = TEXTS * 8
    for number in range(2):
        pq.write_table(
            pa.table({"text": texts[number * 1200 : (number + 1) * 1200]}),
            tmp_path / f"shard_{number:05d}.parquet",
            row_group_size=1024,
            use_dictionary=False,
            compression="zstd",
            compression_level=3,
            write_statistics=False,
        )
    assert texts_of(tmp_path) == texts
    assert texts_of(tmp_path / "shard_00001.parquet") == texts[1200:]
    built = build_corpus(tmp_path, BPE, tmp_path / "out", workers=2)
    assert built.manifest["counts"]["documents"] == 2400
