"""Laws of reading: what is cut gives back its text, however it comes and wherever it is cut."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engram.corpus.building.units import plan_units
from engram.corpus.text import readers
from engram.corpus.text.documents import DocumentEnds
from engram.corpus.text.readers import TextReader
from engram.corpus.text.sources import find_sources
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens import cutting

# Every property writes a file of its own into one folder, which is all that it leaves there.
in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
fast = settings(deadline=None, max_examples=200)
PIECES = st.sampled_from(["a", "bc", "\n", "\n\n", " ", "\t", "\r\n", "é", "\u2028", "語", "."])
TEXTS = st.lists(PIECES, max_size=40).map("".join)
SPLITS = st.sampled_from(["paragraph", "line", "file"])


def documents(path, **options):
    return [
        text for block in TextReader(path, TextOptions(**options)).blocks() for text in block.texts
    ]


@in_one_folder
@given(text=TEXTS.filter(str.strip), split=SPLITS, block_bytes=st.integers(1, 9))
def test_documents_put_together_are_the_file(tmp_path, text, split, block_bytes):
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "_BLOCK_BYTES", block_bytes)
        found = documents(path, split=split)
    assert "".join(found) == text
    assert found == documents(path, split=split)
    if split == "line":
        assert found == text.splitlines(keepends=True) if text.isascii() else True
        assert all(one.count("\n") == 1 for one in found[:-1])


@in_one_folder
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
        min_size=1,
        max_size=12,
    ),
    kind=st.sampled_from(["jsonl", "json", "csv"]),
    ascii_only=st.booleans(),
)
def test_records_come_back(tmp_path, texts, kind, ascii_only):
    path = tmp_path / f"text.{kind}"
    records = [json.dumps({"text": text}, ensure_ascii=ascii_only) for text in texts]
    if kind == "csv":
        out = io.StringIO(newline="")
        rows = csv.writer(out, quoting=csv.QUOTE_ALL)
        rows.writerows([["text"], *([text] for text in texts)])
        written = out.getvalue()
        # The reader of .csv reads universal newlines inside of quotes as they are.
        texts = [row[0] for row in csv.reader(io.StringIO(written, newline=""))][1:]
    else:
        written = "\n".join(records) if kind == "jsonl" else f"[{','.join(records)}]"
    path.write_bytes(written.encode())
    assert documents(path) == texts


@in_one_folder
@given(
    lines=st.lists(st.lists(PIECES, max_size=8).map("".join), min_size=1, max_size=30),
    split=SPLITS,
    unit_bytes=st.integers(1, 60),
)
def test_units_hold_the_documents_of_the_whole(tmp_path, lines, split, unit_bytes):
    path = tmp_path / "text.txt"
    path.write_bytes(("x" + "\n".join(lines)).encode())
    units = plan_units(find_sources(path, False)[0], split, unit_bytes)
    apart = [text for unit in units for text in documents(unit, split=split)]
    assert apart == documents(path, split=split)
    assert sum(source.size_bytes for unit in units for source in unit) == path.stat().st_size


@fast
@given(text=TEXTS.map(str.encode), cuts=st.lists(st.integers(0, 80), max_size=6), split=SPLITS)
def test_ends_do_not_depend_on_blocks(text, cuts, split):
    def ends(bounds):
        found, given_ends = DocumentEnds(split), []
        for start, end in pairwise(bounds):
            given_ends += found.feed(text[start:end])
        return given_ends + found.finish(), found.has_text

    whole, whole_text = ends([0, len(text)])
    parts, parts_text = ends(sorted({0, len(text), *(cut for cut in cuts if cut < len(text))}))
    assert whole_text == parts_text
    if split == "line":  # only the first and the last end of every block are told
        assert set(whole) <= set(parts)
        assert set(parts) <= {i + 1 for i, sign in enumerate(text) if sign == 10} | {len(text)}
    else:
        assert parts == whole


@pytest.fixture(scope="module")
def encoder(local_bpe):
    from engram.addressing.tokenizer_files import load_tokenizer

    return load_tokenizer(local_bpe).tokenizer


@settings(deadline=None, max_examples=40)
@given(
    words=st.lists(st.sampled_from(["river", "a", "3,141", "é", "\n\n", "!?", " "]), max_size=60)
)
def test_a_cut_document_has_the_ids_of_the_whole(encoder, words):
    text = " ".join(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "LONG_CHARACTERS", 20)
        patch.setattr(cutting, "_PIECE", 10)
        pieces = cutting.cut_long(encoder, text)
    assert "".join(pieces) == text
    whole = encoder.encode(text, add_special_tokens=False).ids
    parts = [encoder.encode(piece, add_special_tokens=False).ids for piece in pieces]
    assert [i for part in parts for i in part] == whole
