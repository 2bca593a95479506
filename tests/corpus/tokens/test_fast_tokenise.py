"""gigatoken beside `tokenizers`: the same ids for every text, and memory that stays bounded."""
# ruff: noqa: RUF001

from __future__ import annotations

import base64
import json
import random
import sys
import unicodedata
from pathlib import Path

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from engram.addressing.tokenizer_files import load_tokenizer, wrap_tokenizer
from engram.corpus.text.blocks import Block
from engram.corpus.text.sources import Source
from engram.corpus.tokens import cutting, fast_tokenise
from engram.corpus.tokens.fast_tokenise import FastEncoder
from engram.corpus.tokens.tokenise import fast_encoder, tokenise

pytest.importorskip("gigatoken")

LANGUAGES = [
    "The tables are read once per token, aren't they? I've 12,345.67 of them.",
    "Der Fluß führt über die Brücke; 'größer' heißt „bigger“.",
    "Всё, что мы знаем о таблицах, помещается в 64 бита.",
    "Οι πίνακες διαβάζονται μία φορά ανά σύμβολο.",
    "表は一つのトークンごとに一度読まれます。한국어도 읽습니다。中文也可以。",
    "الجداول تُقرأ مرة واحدة لكل رمز ١٢٣.",
    "तालिकाएँ प्रति टोकन एक बार पढ़ी जाती हैं। १२३",
    "ตารางถูกอ่านหนึ่งครั้งต่อโทเค็น",
    "🙂 👩‍👩‍👧 🇩🇪 é (e\u0301) \u00a0 \u2003 \u200b zero\ufeff",
    "def f(x: int) -> str:\n\treturn f'{x!r}'  # 0xFF\r\n\n\nif (a&&b) { c[0]++; }",
]


def trained(**changes) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=alphabet,
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(LANGUAGES * 3, trainer)
    tokenizer.add_tokens([AddedToken("Milky Way", lstrip=True), AddedToken("~~")])
    return tokenizer


def encoder_of(tokenizer: Tokenizer) -> FastEncoder:
    return FastEncoder(wrap_tokenizer(tokenizer, "trained", {"eos": 0}))


@pytest.fixture(scope="module")
def tokenizer():
    return trained()


def check(fast: FastEncoder, tokenizer: Tokenizer, texts: list[str]) -> None:
    tokens, lengths = fast.encode(texts)
    start = 0
    for text, length in zip(texts, lengths.tolist(), strict=True):
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokens[start : start + length].tolist() == expected, repr(text)
        start += length
    assert start == len(tokens)
    assert fast.problem == ""


def test_languages_and_code(tokenizer):
    fast = encoder_of(tokenizer)
    check(fast, tokenizer, LANGUAGES)
    check(fast, tokenizer, ["", " ", "\n", *LANGUAGES, ""])
    assert fast.reference_documents == 0


@pytest.mark.parametrize("form", ["BMP", "all", "unassigned"])
def test_random_unicode(tokenizer, form):
    rng = random.Random(form)
    points = [p for p in range(0x110000) if not 0xD800 <= p < 0xE000]
    if form == "BMP":
        points = points[:0xF800]
    if form == "unassigned":
        points = [p for p in points if unicodedata.category(chr(p)) == "Cn"]
    mixed = [*map(chr, rng.choices(points, k=3000)), *"ab1 \n'.é字" * 100]
    texts = ["".join(rng.choices(mixed, k=rng.randrange(40))) for _ in range(1500)]
    fast = encoder_of(tokenizer)
    check(fast, tokenizer, texts)
    if form == "unassigned":
        with_them = sum(any(unicodedata.category(c) == "Cn" for c in text) for text in texts)
        assert fast.reference_documents == with_them


def test_strings_of_added_tokens(tokenizer):
    fast = encoder_of(tokenizer)
    special = ["<|endoftext|>", "a<|endoftext|>b", "<|endof", "the  Milky Way.", "a~~b", "~"]
    check(fast, tokenizer, [*special, *LANGUAGES])
    assert fast.reference_documents == 5


def test_added_tokens_that_begin_with_a_control_character(tokenizer):
    copied = Tokenizer.from_str(tokenizer.to_str())
    copied.add_tokens(["\0", "\0<|"])
    fast = encoder_of(copied)
    texts = ["plain words", "<|endoftext|>", "a\0b", "<|x", *LANGUAGES]
    check(fast, copied, texts)
    assert fast.reference_documents == 3


def test_nfc():
    tokenizer = trained(normalizer=normalizers.Sequence([normalizers.NFC()]))
    texts = [unicodedata.normalize("NFD", text) for text in LANGUAGES]
    check(encoder_of(tokenizer), tokenizer, [*LANGUAGES, *texts])


def test_very_long_lines(tokenizer, monkeypatch):
    monkeypatch.setattr(cutting, "LONG_CHARACTERS", 20_000)
    monkeypatch.setattr(cutting, "_PIECE", 5_000)
    words = " ".join(LANGUAGES) * 90
    texts = ["x" * 30_000, " " * 30_000, "7" * 30_000, "字" * 30_000, words, words + "~~"]
    fast = encoder_of(tokenizer)
    check(fast, tokenizer, texts)
    assert fast.reference_documents == 1


def test_memory_is_bounded_by_a_new_encoder(tokenizer, monkeypatch):
    loads = []
    load = fast_tokenise._load
    monkeypatch.setattr(fast_tokenise, "_load", lambda source: loads.append(1) or load(source))
    monkeypatch.setattr(fast_tokenise, "_MOST_FRESH_CHARACTERS", 20_000)
    fast = encoder_of(tokenizer)
    # Which documents are looked at is left to chance.
    fast._random = random.Random(5)
    loads.clear()
    rng = random.Random(3)
    for _ in range(20):
        words = ("".join(rng.choices("abcdefghij", k=7)) for _ in range(1000))
        check(fast, tokenizer, [" ".join(words)])
    assert 6 <= len(loads) <= 8
    loads.clear()
    for _ in range(20):
        check(fast, tokenizer, LANGUAGES * 10)
    assert len(loads) <= 4


def test_a_difference_is_noticed(tokenizer):
    fast = encoder_of(tokenizer)
    other = trained()
    other.add_tokens(["The tables are"])
    fast._reference = other
    texts = LANGUAGES[:1] * 50
    tokens, _ = fast.encode(texts)
    assert "gave other ids than tokenizers" in fast.problem
    ids = other.encode(texts[0], add_special_tokens=False).ids
    assert tokens.tolist() == ids * 50
    assert fast.encode(texts)[0].tolist() == ids * 50


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"normalizer": normalizers.Lowercase()}, "normalised to NFC"),
        ({"model": models.WordLevel({"a": 0}, unk_token="a")}, "byte-level BPE only"),
        ({"model": models.BPE({"a": 0}, [])}, "cannot read it"),
    ],
)
def test_other_tokenizers_are_left_to_tokenizers(tokenizer, change, reason):
    other = Tokenizer.from_str(tokenizer.to_str())
    for name, value in change.items():
        setattr(other, name, value)
    fast, why = fast_encoder(wrap_tokenizer(other, "other", {}), None)
    assert fast is None
    sentence, detail = why.split("\n")
    assert sentence == "Tokenised with tokenizers (gigatoken does not support this tokenizer)."
    assert reason in detail


def test_without_gigatoken_and_for_small_texts(tokenizer, monkeypatch):
    file = wrap_tokenizer(tokenizer, "trained", {})
    assert "the text is small" in fast_encoder(file, 1000)[1]
    fast, why = fast_encoder(file, None)
    assert fast is not None
    assert why.startswith("Tokenised with gigatoken ")
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    fast, why = fast_encoder(file, None)
    assert fast is None
    assert "engram-toolkit[fast]" in why


@pytest.mark.parametrize("add_eos", [False, True])
def test_batches_are_the_same(tokenizer, add_eos):
    file = wrap_tokenizer(tokenizer, "trained", {"eos": 0})
    texts = [*LANGUAGES, "<|endoftext|>", "\U0001fadd"] * 30
    blocks = [
        Block(Source("x", None, "jsonl"), 1, texts[i : i + 9], True, 0) for i in range(0, 360, 9)
    ]
    plain = list(tokenise(blocks, file, add_eos=add_eos))
    fast = list(tokenise(blocks, file, add_eos=add_eos, fast=fast_encoder(file, None)[0]))
    for one, other in zip(plain, fast, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.tokens.dtype == other.tokens.dtype
        assert one.boundaries.tolist() == other.boundaries.tolist()


@pytest.fixture(scope="module", params=["gpt2", "deepseek-v3", "deepseek-v4"])
def real(request, real_assets):
    """A released tokenizer, and gigatoken beside it."""
    file = load_tokenizer(str(real_assets / "tokenizers" / request.param))
    fast, why = fast_encoder(file, None)
    assert fast is not None, why
    return fast, file.tokenizer


@pytest.mark.real
def test_real_tokenizers_on_natural_text_and_code(real, real_assets):
    check(*real, LANGUAGES)
    with (real_assets / "english.txt").open("rb") as english:
        text = english.read(10**6).decode(errors="ignore")
    check(*real, text.split("\n\n"))
    code = sorted(Path(json.__file__).parent.parent.glob("*.py"))[:60]
    check(*real, [path.read_text(encoding="utf-8") for path in code])


@pytest.mark.real
def test_real_tokenizers_on_every_character_and_on_added_tokens(real):
    rng = random.Random(2)
    points = [chr(p) for p in range(0x110000) if not 0xD800 <= p < 0xE000]
    mixed = [*rng.choices(points, k=3000), *rng.choices(points[:0x3000], k=3000), *" \n'sa1" * 300]
    texts = ["".join(rng.choices(mixed, k=rng.randrange(40))) for _ in range(3000)]
    check(*real, texts)
    # Every character that is assigned once, a thousand of them a document.
    known = [point for point in points if unicodedata.category(point) not in ("Cn", "Co")]
    check(*real, ["".join(known[start : start + 1000]) for start in range(0, len(known), 1000)])
    added = [token.content for token in real[1].get_added_tokens_decoder().values()]
    assert "<|endoftext|>" in added or "<|EOT|>" in added
    texts = [f"{left}{token}{right}" for token in added for left, right in [("", ""), ("a ", " b")]]
    check(*real, [*texts, *(text[:-1] for text in texts)])


@pytest.mark.real
def test_real_tokenizers_on_very_long_lines(real, real_assets):
    with (real_assets / "english.txt").open("rb") as english:
        line = " ".join(english.read(13 * 10**5).decode(errors="ignore").split())
    packed = json.dumps(list(range(190_000)), separators=(",", ":"))
    noise = base64.b64encode(random.Random(4).randbytes(850_000)).decode()
    assert min(map(len, (line, packed, noise))) > cutting.LONG_CHARACTERS
    # With an unassigned character they go to `tokenizers`, which encodes them in pieces.
    texts = [line, packed, noise, "x" * 300_000, " " * 300_000, "字" * 300_000]
    check(*real, [*texts, *(text + "\u0378" for text in texts[:3])])
