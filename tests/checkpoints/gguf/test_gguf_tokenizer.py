"""The tokenizer inside of a GGUF file: as the model's own, or refused by name."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import pre_tokenizers

import engram
from engram.addressing.addresses import map_digest
from engram.addressing.tokenizer_files import load_tokenizer
from engram.addressing.vocabulary import build_map, compressed_map
from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.checkpoints.gguf.gguf_tokenizer import gguf_tokenizer
from engram.checkpoints.gguf.pre_tokenizers import PRE_TOKENIZERS
from engram.errors import CorruptFileError, LayoutError, MissingFileError
from support.cli import run
from support.gguf_files import Array
from support.gguf_memories import addresses_of, facts_of, write_filled, write_memory
from support.gguf_tokenizers import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, keys, keys_of
from support.paths import BPE, WORD

TEXT = "By the way, I am a fan of the Milky Way.  By the way <eos> extra word <|Image|> é 123."
KEY = "tokenizer.ggml."


def written(path, values, name="gguf_ds4", **options):
    return open_gguf(write_memory(path, name, values=values, small=True, **options))


def with_tokenizer(path, values):
    """Write a small memory with the constants of our test tokenizer, and a tokenizer in it."""
    addresses = addresses_of("gguf_ds4")
    facts = facts_of(addresses, addresses.fill)
    write_memory(path, "gguf_ds4", changed=facts, values=values, small=True)
    return path


def test_it_cuts_texts_as_the_models_own(tmp_path):
    right = load_tokenizer(BPE)
    found = gguf_tokenizer(written(tmp_path / "model.gguf", keys_of(BPE, "gpt-2")))
    one, other = (it.tokenizer.encode(TEXT, add_special_tokens=False) for it in (found, right))
    assert (one.ids, one.offsets) == (other.ids, other.offsets)
    assert found.vocab_size == right.vocab_size
    assert np.array_equal(compressed_map(found), compressed_map(right))
    every = list(range(right.vocab_size))
    assert found.tokenizer.decode(every) == right.tokenizer.decode(every), "specials are skipped"
    longer = gguf_tokenizer(written(tmp_path / "model.gguf", keys_of(BPE, "gpt-2", unused=7)))
    assert longer.vocab_size == right.vocab_size + 7
    own = build_map(longer.tokenizer, longer.vocab_size)[: right.vocab_size]
    assert np.array_equal(own, compressed_map(right))
    assert longer.tokenizer.encode(TEXT, add_special_tokens=False).ids == other.ids


def test_ids_of_special_tokens(tmp_path):
    ids = {"bos_token_id": ("uint32", 0), "eos_token_id": ("uint32", 1)}
    values = {**keys_of(BPE, "gpt-2"), **{KEY + name: value for name, value in ids.items()}}
    found = gguf_tokenizer(written(tmp_path / "model.gguf", values))
    assert (found.bos_id, found.eos_id, found.pad_id) == (0, 1, None)
    assert found.eos_token == "<eos>"


def test_a_look_up_and_verify_take_it(tmp_path):
    path = with_tokenizer(tmp_path / "model.gguf", keys_of(BPE, "gpt-2"))
    assert engram.look_up(path, TEXT).to_dict() == (
        engram.look_up(path, TEXT, tokenizer=BPE).to_dict()
    )
    answer = run("lookup", path, TEXT, "--json").json()
    assert answer["tokens"][0]["text"] == "B"
    (check,) = (it for it in engram.verify(path) if it.name == "tokenizer")
    assert check.ok
    assert check.detail == f"the tokenizer in {path} gives the token map of the file"
    with_tokenizer(path, keys_of(BPE, "brand-new"))
    (check,) = (it for it in engram.verify(path) if it.name == "tokenizer")
    assert check.ok is None
    assert "cuts texts by the rule 'brand-new', which is unknown" in check.detail
    assert "-t TOKENIZER" in check.detail
    assert run("lookup", path, TEXT, "-t", BPE, "--json")[0] == 0


def test_another_tokenizer_in_the_file_is_told(tmp_path):
    values = keys_of(BPE, "gpt-2")
    tokens = list(values[f"{KEY}tokens"].items)
    at = next(i for i, token in enumerate(tokens) if token == "A")
    tokens[at], tokens[at + 1] = tokens[at + 1], tokens[at]
    path = with_tokenizer(
        tmp_path / "model.gguf", {**values, f"{KEY}tokens": Array("string", tokens)}
    )
    (check,) = (it for it in engram.verify(path) if it.name == "tokenizer")
    assert check.ok is False
    assert "not the one that the memory was made with" in check.detail


def test_a_layout_that_hashes_token_ids(tmp_path):
    path = tmp_path / "model.gguf"
    write_filled(path, "gguf_qwen4exp")
    assert not [it for it in engram.verify(path) if it.name == "tokenizer"]
    addresses = addresses_of("gguf_qwen4exp")
    facts = facts_of(addresses, addresses.fill)
    write_memory(path, "gguf_qwen4exp", changed=facts, values=keys_of(BPE, "qwen35"), small=True)
    (check,) = (it for it in engram.verify(path) if it.name == "tokenizer")
    assert (check.ok, check.detail) == (None, "this layout hashes token ids themselves")


@pytest.mark.parametrize(("pre", "composes"), [("qwen2", True), ("qwen35", True), ("gpt-2", False)])
def test_a_text_that_is_composed_is_noted(pre, composes, tmp_path):
    path = with_tokenizer(tmp_path / "model.gguf", keys_of(BPE, pre))
    parts, whole = "caf" + "e\u0301 au lait", "caf\u00e9 au lait"
    found, right = (engram.look_up(path, text) for text in (parts, whole))
    ids = [[token.token_id for token in it.tokens] for it in (found, right)]
    assert (ids[0] == ids[1]) == composes
    assert len(found.notes) == composes
    assert right.notes == (), "nothing changes"
    done = run("lookup", path, parts, "--json").ended()
    assert json.loads(done.stdout)["notes"] == list(found.notes)
    assert ("composes this text (NFC)" in done.stderr) == composes
    assert "NFC" not in run("lookup", path, parts, "-q").ended().stderr


def test_pieces_are_not_composed(tmp_path):
    tokens, types, scores = sentence_pieces(0)
    more = {"scores": Array("float32", scores), "unknown_token_id": ("uint32", 0)}
    tokenizer = gguf_tokenizer(
        written(tmp_path / "model.gguf", keys("llama", tokens, types, **more))
    )
    normalizer = tokenizer.tokenizer.normalizer
    assert normalizer.normalize_str("e\u0301") != normalizer.normalize_str("\u00e9")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": None}, MissingFileError, "holds no tokenizer"),
        ({"model": ("string", "bert")}, LayoutError, "of the kind 'bert', which is not read"),
        ({"pre": None}, LayoutError, "does not say how its tokenizer cuts a text"),
        ({"pre": ("string", "default")}, LayoutError, "the rule 'default', which is unknown"),
        ({"merges": None}, CorruptFileError, r"merges is missing"),
        ({"tokens": None}, CorruptFileError, r"tokens is missing"),
        ({"merges": Array("string", ["A B C"])}, CorruptFileError, "merge 'A B C' is not of two"),
        ({"merges": Array("string", ["AB"])}, CorruptFileError, "merge 'AB' is not of two"),
        ({"token_type": Array("int32", [1])}, CorruptFileError, "1 entries for 544 tokens"),
        ({"tokens": Array("string", ["a", "b", "a"])}, CorruptFileError, "0 and 2 are both 'a'"),
    ],
)
def test_what_cannot_be_read_is_named(changes, error, message, tmp_path):
    changes = {KEY + name: value for name, value in changes.items()}
    values = {**keys_of(BPE, "gpt-2"), **changes}
    values = {key: value for key, value in values.items() if value is not None}
    memory = written(tmp_path / "model.gguf", values)
    with pytest.raises(error, match=message) as caught:
        gguf_tokenizer(memory)
    assert "-t TOKENIZER" in caught.value.hint


# Pieces that the rules give, written down by hand from their definitions.
PIECES = {
    "gpt-2": ["don", "'t", " DON", "'", "T", " 12345", " x", "\u0301=", "\n", "\n", "!", "\u4e16"],
    "llama-bpe": ["don", "'t", " DON", "'T", " ", "123", "45", " x", "\u0301=\n\n", "!\u4e16"],
    "qwen2": ["don", "'t", " DON", "'T", " ", *"12345", " x", "\u0301=\n\n", "!\u4e16"],
    "qwen35": ["don", "'t", " DON", "'T", " ", *"12345", " x\u0301", "=\n\n", "!\u4e16"],
}


@pytest.mark.parametrize("name", sorted(PIECES))
def test_rules_cut_as_they_say(name):
    from tokenizers import Regex

    text = "don't DON'T 12345 x\u0301=\n\n!\u4e16"
    splits = [pre_tokenizers.Split(Regex(it), "isolated") for it in PRE_TOKENIZERS[name].splits]
    found = [piece for piece, _ in pre_tokenizers.Sequence(splits).pre_tokenize_str(text)]
    assert "".join(found) == text
    assert found == PIECES[name]


def test_digits_stand_alone_as_transformers_cuts_them():
    from tokenizers import Regex

    text = "12 of 345 apples, don't  say\n2x"
    rules = [pre_tokenizers.Split(Regex(it), "isolated") for it in PRE_TOKENIZERS["smollm"].splits]
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    right = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found = pre_tokenizers.Sequence([*rules, as_bytes])
    assert found.pre_tokenize_str(text) == right.pre_tokenize_str(text)


def sentence_pieces(seed):
    """A random vocabulary of pieces with scores that differ, and the bytes."""
    chosen = random.Random(seed)
    letters = "ab\u2581\u00e9"
    pieces = set(letters)
    while len(pieces) < 60:
        pieces.add("".join(chosen.choices(letters, k=chosen.randint(2, 5))))
    pieces = sorted(pieces, key=lambda it: (len(it), it))
    scores = [-float(it) for it in chosen.sample(range(1000), len(pieces))]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(pieces)]
    return tokens, types, [*[0.0] * 259, *scores]


def merged(text, tokens, types, scores):
    """Merge the neighbours whose piece has the highest score, the leftmost of equals, as llama.cpp
    does; letters that are no piece become bytes."""
    known = {it: (scores[at], at) for at, it in enumerate(tokens) if types[at] == NORMAL}
    symbols = list("\u2581" + text.replace(" ", "\u2581"))
    while True:
        pairs = [
            (-known[one + other][0], at)
            for at, (one, other) in enumerate(pairwise(symbols))
            if one + other in known
        ]
        if not pairs:
            break
        at = min(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    byte_ids = {token: at for at, token in enumerate(tokens)}
    return [
        number
        for it in symbols
        for number in (
            [known[it][1]] if it in known else [byte_ids[f"<0x{b:02X}>"] for b in it.encode()]
        )
    ]


@pytest.mark.parametrize("seed", range(5))
def test_pieces_are_merged_as_sentencepiece_does(seed, tmp_path):
    tokens, types, scores = sentence_pieces(seed)
    unknown = {"unknown_token_id": ("uint32", 0), "scores": Array("float32", scores)}
    memory = written(tmp_path / "model.gguf", keys("llama", tokens, types, **unknown))
    found = gguf_tokenizer(memory).tokenizer
    chosen = random.Random(seed)
    for _ in range(40):
        text = "".join(chosen.choices("ab \u00e9c\u4e16", k=chosen.randint(1, 20)))
        ids = found.encode(text, add_special_tokens=False).ids
        assert ids == merged(text, tokens, types, scores), text
        assert found.decode(ids) == text
    assert found.encode("</s>", add_special_tokens=False).ids == [2]
    no_space = {**unknown, "add_space_prefix": ("bool", False)}
    memory = written(tmp_path / "model.gguf", keys("llama", tokens, types, **no_space))
    encoded = gguf_tokenizer(memory).tokenizer.encode("b", add_special_tokens=False)
    assert encoded.tokens == ["b"]


def test_pieces_that_would_take_forever_are_refused(tmp_path):
    tokens = ["<unk>", "a" * 2000]
    scores = {"scores": Array("float32", [0.0, -1.0]), "unknown_token_id": ("uint32", 9)}
    for text, message in ((tokens, "has 2,000 letters"), (["<unk>", "a"], "token_id is 9")):
        memory = written(tmp_path / "model.gguf", keys("llama", text, [UNKNOWN, NORMAL], **scores))
        with pytest.raises(CorruptFileError, match=message):
            gguf_tokenizer(memory)


def test_words_of_the_user_are_taken_whole(tmp_path):
    values = keys_of(BPE, "gpt-2")
    kinds = values[f"{KEY}token_type"].items
    tokens = values[f"{KEY}tokens"].items
    taken = [token for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED]
    assert taken
    found = gguf_tokenizer(written(tmp_path / "model.gguf", values)).tokenizer
    for token in taken:
        assert found.encode(f"A{token}A", add_special_tokens=False).tokens[1] == token
    plain = {key: it for key, it in values.items() if key != f"{KEY}token_type"}
    bare = gguf_tokenizer(written(tmp_path / "model.gguf", plain)).tokenizer
    assert len(bare.encode(f"A{taken[0]}A", add_special_tokens=False).tokens) > 3
    assert load_tokenizer(WORD).vocab_size != found.get_vocab_size()


REAL = {"deepseek-v4": "joyai-llm", "deepseek-v3": "deepseek-v3", "gpt2": "gpt-2"}


@pytest.mark.real
@pytest.mark.parametrize("name", sorted(REAL))
def test_real_tokenizers_are_the_same_inside_of_a_file(name, real_assets, tmp_path):
    folder = real_assets / "tokenizers" / name
    right = load_tokenizer(folder)
    found = gguf_tokenizer(written(tmp_path / "model.gguf", keys_of(folder, REAL[name])))
    english = (real_assets / "english.txt").read_text()[:300_000]
    odd = " \u4f60\u597d\uff0c\u4e16\u754c \u30ab\u30bf\u30ab\u30ca 1234567 don't DON'T\r\n\r\n  "
    special = "<think> e\u0301 \u00e9 \U0001f40d <\uff5cbegin\u2581of\u2581sentence\uff5c> \u0e2a"
    one, other = (
        it.tokenizer.encode(english + odd + special, add_special_tokens=False)
        for it in (found, right)
    )
    assert one.ids == other.ids
    assert one.offsets == other.offsets
    maps = [map_digest(compressed_map(it)) for it in (found, right)]
    assert maps[0] == maps[1]
