"""`EngramTokenizer` takes what users have and gives what modules take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from engram import EngramConfig, EngramTokenizer
from engram.addressing.reference import hash_ids
from engram.addressing.tokenizer_files import load_tokenizer
from engram.errors import InputError, LayoutError, MismatchError, UsageError


def memory(**keys):
    defaults = {
        "hidden_size": 8,
        "engram_vocab_size": 544,
        "engram_table_size": [200, 300],
        "max_ngram_size": 3,
        "n_embed_per_ngram": 4,
        "n_head_per_ngram": 2,
        "layer_ids": [3, 1],
        "pad_id": 2,
    }
    return EngramConfig(**{**defaults, **keys})


@pytest.fixture(scope="module")
def tokenizer(local_bpe):
    return EngramTokenizer(memory(), str(local_bpe))


IDS = [[5, 9, 2, 31, 17], [0, 63, 8, 543, 1]]


def test_every_kind_of_tokenizer(local_bpe, tokenizer):
    auto = AutoTokenizer.from_pretrained(local_bpe)
    backend = Tokenizer.from_file(str(local_bpe / "tokenizer.json"))
    for given in (local_bpe, load_tokenizer(local_bpe), auto, backend):
        other = EngramTokenizer(memory(), given)
        assert other.fingerprint == tokenizer.fingerprint
    assert EngramTokenizer(memory(tokenizer=str(local_bpe))).fingerprint == tokenizer.fingerprint


def test_shapes_and_layers(tokenizer):
    every = tokenizer.compress_and_hash(IDS)
    assert isinstance(every, np.ndarray)
    assert (every.dtype, every.shape) == (np.int64, (2, 5, 2, 4))
    np.testing.assert_array_equal(every, hash_ids(tokenizer.addresses, np.array(IDS))[0])
    for slot, layer_id in enumerate([3, 1]):
        one = tokenizer.compress_and_hash(IDS, layer_id=layer_id)
        np.testing.assert_array_equal(one, every[:, :, slot])
        primes = tokenizer.vocab_distributions[layer_id]
        assert (primes.layer_id, primes.slot) == (layer_id, slot)
        assert (one < np.array(primes).ravel()).all()
        offsets = tokenizer.addresses.layers[slot].offsets
        np.testing.assert_array_equal(tokenizer.row_ids(IDS, layer_id=layer_id), one + offsets)
    np.testing.assert_array_equal(tokenizer.compress_and_hash(IDS[0]), every[:1])
    assert tokenizer.compress(IDS).tolist() == tokenizer.addresses.token_map[IDS].tolist()


def test_every_kind_of_ids(tokenizer):
    every = tokenizer.compress_and_hash(IDS)
    for given in (np.array(IDS, dtype=np.uint16), torch.tensor(IDS), torch.tensor(IDS).int()):
        np.testing.assert_array_equal(tokenizer.compress_and_hash(given), every)
        tensor = tokenizer.compress_and_hash(given, return_tensors="pt")
        assert isinstance(tensor, torch.Tensor)
        assert (tensor.dtype, tensor.device.type) == (torch.int64, "cpu")
        np.testing.assert_array_equal(tensor.numpy(), every)
    assert tokenizer.compress_and_hash([[]]).shape == (1, 0, 2, 4)
    assert tokenizer.compress_and_hash(np.empty((0, 7), int)).shape == (0, 7, 2, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_ids_on_a_gpu(tokenizer):
    ids = torch.tensor(IDS, device="cuda")
    tensor = tokenizer.compress_and_hash(ids, return_tensors="pt")
    assert tensor.device == ids.device
    np.testing.assert_array_equal(tensor.cpu().numpy(), tokenizer.compress_and_hash(IDS))


def test_masks(tokenizer):
    padded = [[2, 2, *IDS[0]], [2, 2, *IDS[1]]]
    mask = [[0, 0, 1, 1, 1, 1, 1]] * 2
    every = tokenizer.compress_and_hash(IDS)
    for kind in (list, np.array, torch.tensor):
        left = tokenizer.compress_and_hash(padded, attention_mask=kind(mask))
        np.testing.assert_array_equal(left[:, 2:], every)
    packed = tokenizer.row_ids([IDS[0] + IDS[1]], starts=[[0, 0, 0, 0, 0, 1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(packed.reshape(2, 5, 2, 4), tokenizer.row_ids(IDS))
    one = tokenizer.compress_and_hash(padded[0], attention_mask=mask[0])
    np.testing.assert_array_equal(one[:, 2:], every[:1])


def test_layer_ids_of_the_call_win(local_bpe):
    tokenizer = EngramTokenizer(memory(), local_bpe, layer_ids=[0, 2, 4])
    assert tokenizer.layer_ids == tokenizer.config.layer_ids == [0, 2, 4]
    assert list(tokenizer.vocab_distributions) == [0, 2, 4]
    with pytest.raises(LayoutError, match="No layer"):
        EngramTokenizer(memory(layer_ids=[]), local_bpe)


def test_pad_id(local_bpe, local_word):
    assert EngramTokenizer(memory(pad_id="<eos>"), local_bpe).config.pad_id == 1
    assert EngramTokenizer(memory(pad_id=None), local_bpe).config.pad_id == 2
    ended = load_tokenizer(local_bpe)
    auto = AutoTokenizer.from_pretrained(local_bpe)
    auto.pad_token = None
    assert EngramTokenizer(memory(pad_id=None), auto).config.pad_id == ended.eos_id == 1
    with pytest.raises(LayoutError, match="'<nothing>' is not a token"):
        EngramTokenizer(memory(pad_id="<nothing>"), local_bpe)
    with pytest.raises(LayoutError, match="neither a padding") as caught:
        EngramTokenizer(memory(pad_id=None), ended.tokenizer)
    assert "pad_id" in caught.value.hint
    with pytest.raises(MismatchError, match=r"544 ids.*has 23"):
        EngramTokenizer(memory(), local_word)


def test_raw_ids_of_a_model_with_spare_ones(local_bpe):
    """A layout that hashes raw ids counts those of the model, which may be more."""
    keys = {"layout": "qwen_ple", "engram_table_size": [300, 300], "pad_id": None, "eos_id": 4}
    tokenizer = EngramTokenizer(memory(engram_vocab_size=600, **keys), local_bpe)
    assert tokenizer.addresses.token_map is None
    assert tokenizer.compress([[599]]).tolist() == [[599]]
    assert tokenizer.compress_and_hash([[599]]).shape == (1, 1, 2, 4)
    with pytest.raises(MismatchError):
        EngramTokenizer(memory(engram_vocab_size=500, **keys), local_bpe)


def test_wrong_calls(tokenizer):
    with pytest.raises(MismatchError, match=r"layer_id must be one of \[3, 1\], got 2"):
        tokenizer.compress_and_hash(IDS, layer_id=2)
    with pytest.raises(UsageError, match="'tf'"):
        tokenizer.compress_and_hash(IDS, return_tensors="tf")
    for ids, message in (
        ([[544]], r"got 544 at position \[0, 0\]"),
        ([[1, 2], [3]], "different lengths"),
        ([[0.5]], "float64"),
        ([[True]], "bool"),
        ("text", "<U4"),
        (3, r"\[\]"),
        ([[[1]]], r"\[1, 1, 1\]"),
    ):
        with pytest.raises(InputError, match=message):
            tokenizer.compress_and_hash(ids)
    with pytest.raises(InputError, match=r"attention_mask must be \[2, 5\]"):
        tokenizer.compress_and_hash(IDS, attention_mask=[[1, 1, 1]] * 2)
    with pytest.raises(UsageError, match="cannot be read as a tokenizer"):
        EngramTokenizer(memory(), object())
    with pytest.raises(InputError, match="config has none"):
        EngramTokenizer(memory())
