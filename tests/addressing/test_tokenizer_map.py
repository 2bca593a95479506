# ruff: noqa: RUF001 - characters that look like others are what is tested
"""The compressed vocabulary equals the reference's, read from its cache or computed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers

from engram.addressing import vocabulary
from engram.addressing.tokenizer_files import load_tokenizer, wrap_tokenizer
from engram.addressing.vocabulary import build_map, compressed_map
from engram.storage.disk_cache import cache_folder, read_cached, write_cached

# Texts around every rule: case, accents, widths, blanks of all kinds, bytes, private characters.
TRICKY = [
    *("a", "A", "á", "a\u0301", "Å", "ﬁ", "fi", "ＡＢ", "ab", "Σ", "ς", "σ", "İ", "ı", "i"),
    *(" ", "  ", "\t", "\r\n", " \t ", "\u00a0", "\u3000", "\u2003", "\v", "\f", "\x85", "\u2028"),
    *("\x1c", " \x1c ", "\x00", "\u200b", "\ufeff", "\u00ad", " a", "a ", " a b ", "a\t\nb", ""),
    *("\ue000", " \ue000 ", "a\ue000b", "\ufdd0", "\ufffd", "x\ufffd", "¡", "한", "\u1112\u1161"),
    *("ก็", "é", "E\u0301", "\u0301", "½", "²", "①", "Ⅷ", "ẞ", "ß", "Ǆ", "\u2028a\u2029"),
]


def word_tokenizer(words):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=""))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def reference_map(tokenizer):
    """The rule as the demo states it, one id after the other."""
    normaliser = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[ \t\r\n]+"), " "),
            normalizers.Replace(Regex(r"^ $"), "\ue000"),
            normalizers.Strip(),
            normalizers.Replace("\ue000", " "),
        ]
    )
    numbers, found = {}, []
    for i in range(tokenizer.get_vocab_size()):
        text = tokenizer.decode([i], skip_special_tokens=False)
        key = normaliser.normalize_str(text) or text
        if "\ufffd" in text:
            key = tokenizer.id_to_token(i)
        found.append(numbers.setdefault(key, len(numbers)))
    return found


@pytest.mark.parametrize("name", ["local_bpe", "local_word"])
def test_golden_maps(golden, request, name):
    expected = golden(f"token_map_{name}")
    token_map = compressed_map(load_tokenizer(request.getfixturevalue(name)))
    assert token_map.dtype == np.int32
    assert token_map.tolist() == expected["token_map"]
    assert token_map.max() + 1 == expected["compressed_vocab_size"]


@pytest.mark.parametrize("separator", [[], ["a\ufdd0b"]], ids=["joined", "with the separator"])
def test_every_rule(separator):
    words = [word for word in dict.fromkeys(TRICKY) if "\ufdd0" not in word]
    tokenizer = word_tokenizer(words + separator)
    assert build_map(tokenizer, len(words + separator)).tolist() == reference_map(tokenizer)


def test_random_texts():
    rng = np.random.default_rng(0)
    pool = [*"aAbB \t\n\r\v", *"áàÁÀéç", "\u0301", "\u3000", "\ue000", "\x1c", "½", "한", "ก", "็"]
    words = {"".join(rng.choice(pool, rng.integers(1, 5))) for _ in range(1500)}
    tokenizer = word_tokenizer(sorted(words))
    assert build_map(tokenizer, len(words)).tolist() == reference_map(tokenizer)


def test_every_character_of_the_basic_plane():
    words = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000 and code != 0xFDD0]
    tokenizer = word_tokenizer(words)
    assert build_map(tokenizer, len(words)).tolist() == reference_map(tokenizer)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_cache(cache, local_bpe, monkeypatch):
    tokenizer = load_tokenizer(local_bpe)
    expected = compressed_map(tokenizer)
    (file,) = (cache / "maps").iterdir()
    whole = file.read_bytes()
    monkeypatch.setattr(vocabulary, "build_map", None)
    kept = compressed_map(tokenizer)
    np.testing.assert_array_equal(kept, expected)
    kept[0] = 7  # it is the caller's own
    np.testing.assert_array_equal(compressed_map(load_tokenizer(local_bpe)), expected)
    monkeypatch.undo()
    monkeypatch.setenv("ENGRAM_CACHE", str(cache))
    for damaged in (b"", whole[:-4], whole[:40], whole + b"\0\0\0\0", whole[:-1] + b"x"):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(compressed_map(tokenizer), expected)
        assert file.read_bytes() == whole
    assert sorted(cache.rglob("*.part")) == []


def test_cache_of_another_tokenizer_is_not_read(cache, local_bpe, local_word):
    compressed_map(load_tokenizer(local_bpe))
    (file,) = (cache / "maps").iterdir()
    word = load_tokenizer(local_word)
    (cache / "maps" / file.name.replace(load_tokenizer(local_bpe).digest, word.digest)).write_bytes(
        file.read_bytes()
    )
    assert len(compressed_map(word)) == 23


def test_cache_that_cannot_be_written(tmp_path, local_bpe, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("ENGRAM_CACHE", str(blocked / "cache"))
    assert len(compressed_map(load_tokenizer(local_bpe))) == 544


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.delenv("ENGRAM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "engram"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "engram"
    write_cached("kind", "key", b"content")
    assert read_cached("kind", "key") == b"content"
    assert read_cached("kind", "other") is None


def test_ids_without_a_token(local_word):
    """Ids between those of a tokenizer with holes decode to nothing and share a class."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 3, "A": 4}, unk_token="a"))
    assert build_map(tokenizer, 5).tolist() == [0, 1, 1, 2, 0]


def test_in_memory_tokenizer_has_the_digest_of_its_file(local_bpe):
    file = load_tokenizer(local_bpe)
    copy = Tokenizer.from_str(file.tokenizer.to_str())
    copy.enable_padding(length=9)
    copy.enable_truncation(5)
    assert wrap_tokenizer(copy, "copy", {}).digest == file.digest


REAL = {
    "deepseek-v3": ("token_map_deepseek_v3", 98_627),
    "deepseek-v4": ("token_map_deepseek_v4", 99_092),
    "gpt2": (None, 32_962),
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_maps(real_assets, golden, name):
    tokenizer = load_tokenizer(real_assets / "tokenizers" / name)
    token_map = compressed_map(tokenizer)
    file, size = REAL[name]
    assert token_map.max() + 1 == size
    if file:
        expected = golden(file)
        digest = hashlib.sha256(token_map.astype("<i4").tobytes()).hexdigest()
        assert digest == expected["token_map_sha256_i32le"]
        assert token_map[:512].tolist() == expected["token_map_head"]
    assert token_map.tolist() == reference_map(tokenizer.tokenizer)
