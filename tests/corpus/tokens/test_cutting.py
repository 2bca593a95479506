"""Long documents: pieces that are encoded one by one give the ids of the document as a whole."""

from __future__ import annotations

import base64
import json
import random

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.text.readers import TextReader
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens import cutting, fast_tokenise, tokenise
from engram.errors import InputError
from support.paths import BPE, WORD

WORDS = [
    "Milky",
    "Way",
    "über",
    "字字字",
    "1234567",
    "\t",
    "  ",
    "don't",
    "...",
    "🙂",
    "<eos>",
    "a" * 40,
]

# The rules by which GPT-4's and DeepSeek's tokenizers find words: digits by threes from the left,
# blanks that belong to what follows them, punctuation that takes the ends of lines with it.
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(cutting, "LONG_CHARACTERS", 3000)
    monkeypatch.setattr(cutting, "_PIECE", 700)
    monkeypatch.setattr(cutting, "_CONTEXT", 300)


def random_text(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return "".join(
        rng.choice(WORDS) + rng.choice([" ", " ", "", "\n", " \n ", ". "]) for _ in range(words)
    )


def byte_level(split: pre_tokenizers.PreTokenizer | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    steps = [bytes_alone] if split is None else [split, bytes_alone]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([random_text(seed, 300) for seed in range(9)], trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator([random_text(0, 500)], trainer)
    return tokenizer


ENCODERS = {
    "gpt2": lambda: byte_level(None),
    "cl100k": lambda: byte_level(pre_tokenizers.Split(Regex(CL100K), "isolated")),
    "local_bpe": lambda: load_tokenizer(str(BPE)).tokenizer,
    "local_word": lambda: load_tokenizer(str(WORD)).tokenizer,
    "metaspace": metaspace,
}


@pytest.mark.parametrize("name", ENCODERS)
def test_ids_of_the_pieces_are_those_of_the_document(name):
    encoder = ENCODERS[name]()
    for seed in range(8):
        text = random_text(100 + seed, 4000)
        pieces = cutting.cut_long(encoder, text)
        assert "".join(pieces) == text
        assert len(pieces) > 5
        encode = encoder.encode_batch_fast
        ids = [i for part in encode(pieces, add_special_tokens=False) for i in part.ids]
        assert ids == encoder.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", ["x" * 9000, "7" * 9000, " " * 9000, "字" * 9000, "ab " * 1000])
def test_texts_without_a_safe_place_stay_whole(text):
    assert cutting.cut_long(byte_level(None), text) == [text]


@pytest.mark.parametrize("name", ["gpt2", "cl100k", "local_bpe"])
@pytest.mark.parametrize("kind", ["base64", "json"])
def test_texts_without_blanks_are_cut_between_words(name, kind):
    rng = random.Random(kind)
    data = base64.b64encode(rng.randbytes(9000)).decode()
    if kind == "json":
        values = [{"id": rng.randrange(10**9), "über": "x" * rng.randrange(9)} for _ in range(500)]
        data = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    encoder = ENCODERS[name]()
    pieces = cutting.cut_long(encoder, data)
    assert "".join(pieces) == data
    assert len(pieces) > 5
    ids = [i for p in pieces for i in encoder.encode(p, add_special_tokens=False).ids]
    assert ids == encoder.encode(data, add_special_tokens=False).ids


def test_a_word_longer_than_what_is_looked_at_stays_whole():
    # Everything between two blanks is one word here, though its parts have the ids of the whole.
    text = " ".join(["a-" * 2000, "b-" * 2000])
    encoder = byte_level(pre_tokenizers.Split(" ", "isolated"))
    for piece in cutting.cut_long(encoder, text):
        assert piece.strip(" ") in ("a-" * 2000, "b-" * 2000, text)
    # A tokenizer that looks for no words has none to cut between.
    whole = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    text = random_text(3, 2000)
    assert cutting.cut_long(whole, text) == [text]


def test_without_words_nothing_is_cut():
    encoder = byte_level(None)
    encoder.pre_tokenizer = None
    text = random_text(0, 2000)
    assert cutting.cut_long(encoder, text) == [text]


@pytest.mark.parametrize("add_eos", [False, True])
def test_a_long_document_stays_one_document(tmp_path, monkeypatch, add_eos):
    monkeypatch.setattr(fast_tokenise, "_GROUP_CHARACTERS", 1500)
    texts = ["short\n\n", random_text(5, 3000).replace("\n\n", "\n") + "\n\n", "also short"]
    path = tmp_path / "text.txt"
    path.write_text("".join(texts))
    tokenizer = load_tokenizer(str(BPE))
    (batch,) = tokenise.tokenise(
        TextReader(path, TextOptions(split="line")), tokenizer, add_eos=add_eos
    )
    lines = "".join(texts).splitlines(keepends=True)
    assert len(batch.boundaries) == len(lines) + 1
    (batch,) = tokenise.tokenise(
        TextReader(path, TextOptions(split="file")), tokenizer, add_eos=add_eos
    )
    expected = tokenizer.tokenizer.encode("".join(texts), add_special_tokens=False).ids
    assert batch.tokens.tolist() == expected + ([1] if add_eos else [])
    assert batch.boundaries.tolist() == [0, len(batch.tokens)]


def test_a_document_that_takes_too_much_memory_to_encode_is_named_or_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(cutting, "MOST_CHARACTERS", 4000)
    tokenizer = load_tokenizer(str(BPE))
    long = "a valley " * 1000
    text = ["one\n\n", "x" + "\n" * 5000, "two\n\n", long + "\n\n", "y" * 4001 + "\n\n", "three"]
    path = tmp_path / "a.txt"
    path.write_text("".join(text))
    with pytest.raises(
        InputError, match=r"a\.txt:3: .* 5,001 characters that must be encoded in one piece"
    ):
        list(tokenise.tokenise(TextReader(path), tokenizer))
    reader = TextReader(path, TextOptions(on_error="skip"))
    tokens = [batch.tokens for batch in tokenise.tokenise(reader, tokenizer, wrong=reader.wrong)]
    kept = [text[0], text[2], text[3], text[5]]
    encode = tokenizer.tokenizer.encode
    expected = [id_ for it in kept for id_ in encode(it, add_special_tokens=False).ids]
    assert np.concatenate(tokens).tolist() == expected
    assert [error.message.split(":")[1] for error in reader.errors] == ["3", "5007"]
