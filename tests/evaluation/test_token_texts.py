"""Texts of tokens: joined together they are the text, and characters go to their first token."""

from __future__ import annotations

import gzip
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from engram.addressing.tokenizer_files import load_tokenizer, wrap_tokenizer
from engram.errors import InputError, MissingFileError
from engram.evaluation.token_texts import cut_text, decode_tokens, read_whole
from support.paths import BPE, WORD

HOSTILE = [
    "Hello the  wörld 👩‍👩‍👧 x\r\n\u0301e \u2028 שלום  ",
    "日本語𠮷<|endoftext|> ok\x00\x1b[31m",
    "\ufeff\u202egnp.exe\u202c \ue000\U0010ffff",
    " a b\t\t\n\n  ",
    "e\u0301\u0301\u0301ﬁİß",
    "👍🏽" * 5,
]
LOCAL = {"bpe": BPE, "word": WORD}


@cache
def local(name):
    return load_tokenizer(LOCAL[name])


def check(tokenizer, text):
    try:
        cut = cut_text(tokenizer, text)
    except InputError:
        assert not tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
        return
    assert "".join(cut.texts) == text
    assert [*cut.ids] == tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
    assert cut.ngram(0, len(cut.ids) - 1) == text
    for position in range(len(cut.ids)):
        assert cut.texts[position] in cut.ngram(position, position)
        assert cut.ngram(max(0, position - 1), position).endswith(cut.texts[position])


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("text", HOSTILE)
def test_texts_join_to_the_text(name, text):
    check(local(name), text)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text(text):
    for name in LOCAL:
        check(local(name), text)


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["tokenizers/gpt2", "tokenizers/deepseek-v3", "tokenizers/deepseek-v4", "smollm2-135m"]
)
def test_real_tokenizers(name, real_assets):
    tokenizer = load_tokenizer(real_assets / name)
    for text in HOSTILE:
        check(tokenizer, text)
        byte_level(tokenizer, text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_character_goes_to_the_token_with_its_first_byte(text):
    byte_level(local("bpe"), text)


def byte_level(tokenizer, text):
    """Compare with the bytes that byte-level tokens stand for, whose letters are bytes."""
    cut = cut_text(tokenizer, text)
    added = tokenizer.tokenizer.get_added_tokens_decoder()
    sizes = [
        len(added[it].content.encode()) if it in added else len(tokenizer.tokenizer.id_to_token(it))
        for it in cut.ids
    ]
    assert sum(sizes) == len(text.encode())
    expected, begin = [], 0
    starts = {len(text[:at].encode()): letter for at, letter in enumerate(text)}
    for size in sizes:
        letters = [starts[at] for at in range(begin, begin + size) if at in starts]
        expected.append("".join(letters))
        begin += size
    assert [*cut.texts] == expected


def test_a_tokenizer_that_trims_spaces_and_drops_some():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    cut = cut_text(wrap_tokenizer(tokenizer, "words", {}), "  a  b\n")
    assert cut.texts == ("  a", "  b\n")
    assert cut.ngram(0, 1) == "  a  b\n"
    trimming = load_tokenizer(BPE).tokenizer
    trimming.post_processor = processors.ByteLevel(trim_offsets=True)
    assert cut_text(wrap_tokenizer(trimming, "trims", {}), "x the").texts == ("x", " the")


def test_ngrams_have_whole_characters():
    cut = cut_text(local("bpe"), "x👩y")
    assert cut.texts == ("x", "👩", "", "", "y")
    assert cut.ngram(2, 4) == "👩y"
    assert cut.ngram(3, 2) == ""


def test_tokens_from_the_middle_keep_their_first_space():
    ids = local("bpe").tokenizer.encode("saw the Great é", add_special_tokens=False).ids
    texts = [decode_tokens(local("bpe"), ids[at : at + 2]) for at in range(len(ids) - 1)]
    assert " the Great" in texts
    word = local("word")
    assert decode_tokens(word, [word.tokenizer.token_to_id("a")]) == " a"


def test_texts_that_have_no_tokens_or_are_not_unicode():
    with pytest.raises(InputError, match="no tokens"):
        cut_text(local("bpe"), "")
    with pytest.raises(InputError, match="not valid UTF-8: character 1"):
        cut_text(local("bpe"), "a\udcff")


def test_files_are_read_whole(tmp_path):
    text = "A line.\r\n\n\nAnother é\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    assert read_whole(tmp_path / "a.txt") == read_whole(tmp_path / "a.txt.gz") == text
    with pytest.raises(InputError, match="is a folder"):
        read_whole(tmp_path)
    with pytest.raises(InputError, match="UTF-8"):
        read_whole(tmp_path / "bad.txt")
    with pytest.raises(MissingFileError):
        read_whole(tmp_path / "none.txt")
