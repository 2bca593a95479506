"""datatrove's tokenised files: sizes of tokens, metadata, and files that contradict each other."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from engram.corpus.foreign.datatrove import read_datatrove, stated_tokenizer
from engram.corpus.foreign.find_tokens import find_tokens
from engram.errors import CorruptFileError, MissingFileError
from support import foreign_corpora as foreign

DOCUMENTS = [[1, 2, 3], [4], [5, 6, 7, 8], [9, 10]]


@pytest.mark.parametrize("token_bytes", [2, 4])
@pytest.mark.parametrize("metadata", [None, "gpt2", "/a|b/tokenizer.json"])
def test_the_size_of_tokens_follows_from_the_index(tmp_path, token_bytes, metadata):
    path = foreign.datatrove(tmp_path / "x.ds", DOCUMENTS, token_bytes, metadata)
    shard = read_datatrove(path)
    assert shard.tokens.itemsize == token_bytes
    assert shard.tokens.tolist() == list(range(1, 11))
    assert shard.bounds.tolist() == [0, 3, 4, 8, 10]
    assert stated_tokenizer(path) == metadata
    assert find_tokens(path).tokenizer == metadata


def test_tokenizers_that_nobody_named_are_not_stated(tmp_path):
    # As datatrove writes them where it was given no name.
    one = foreign.datatrove(tmp_path / "1.ds", DOCUMENTS, metadata="Unknown Tokenizer|2")
    assert stated_tokenizer(one) is None
    assert read_datatrove(one).bounds[-1] == 10
    foreign.datatrove(tmp_path / "1.ds", DOCUMENTS, metadata="gpt2")
    foreign.datatrove(tmp_path / "2.ds", DOCUMENTS, metadata="gpt2")
    assert find_tokens(tmp_path).tokenizer == "gpt2"


def test_without_an_index_nothing_says_where_documents_end(tmp_path):
    path = foreign.datatrove(tmp_path / "x.ds", DOCUMENTS)
    Path(f"{path}.index").unlink()
    with pytest.raises(MissingFileError, match="x.ds.index does not exist") as caught:
        read_datatrove(path)
    assert "save_index" in caught.value.hint


@pytest.mark.parametrize(
    ("tokens", "ends", "said"),
    [
        (20, struct.pack("<4Q", 3, 4, 8, 10)[:-1], "31 bytes are not a whole number of ends"),
        (20, struct.pack("<4Q", 3, 2, 8, 10), "the ends of its documents do not rise"),
        (20, struct.pack("<4Q", 3, 4, 2**63, 10), "do not rise"),
        (20, struct.pack("<4Q", 3, 4, 8, 9), "ends its last document at token 9"),
        (20, struct.pack("<4Q", 3, 4, 8, 2**64 - 1), "token 18,446,744,073,709,551,615"),
        (20, b"", "at token 0, and its 20 bytes"),
        (19, struct.pack("<4Q", 3, 4, 8, 10), "at token 10, and its 19 bytes"),
        (0, struct.pack("<4Q", 3, 4, 8, 10), "at token 10, and its 0 bytes"),
        (80, struct.pack("<4Q", 3, 4, 8, 10), "not as many tokens of 2 or 4 bytes"),
    ],
)
def test_files_that_contradict_each_other_are_refused(tmp_path, tokens, ends, said):
    path = tmp_path / "x.ds"
    path.write_bytes(bytes(tokens))
    (tmp_path / "x.ds.index").write_bytes(ends)
    with pytest.raises(CorruptFileError, match=said):
        read_datatrove(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpt2|4\n10\n10 T", "says 10 tokens of 4 bytes, and it holds 10 of 2"),
        ("gpt2|2\n11\n11 T", "says 11 tokens of 2 bytes"),
        ("gpt2|2", "are not a tokenizer, a size and a number"),
        ("gpt2\n10", "are not a tokenizer, a size and a number"),
        ("", "are not a tokenizer, a size and a number"),
        (f"gpt2|2\n{'9' * 5000}", "are not a tokenizer, a size and a number"),
    ],
)
def test_metadata_that_is_torn_or_lies_is_refused(tmp_path, text, said):
    path = foreign.datatrove(tmp_path / "x.ds", DOCUMENTS)
    Path(f"{path}.metadata").write_text(text)
    with pytest.raises(CorruptFileError, match=said):
        read_datatrove(path)
