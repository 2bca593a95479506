"""N-grams with the highest gates and the largest gains, against a count in plain Python."""

from __future__ import annotations

import math
import random
from collections import defaultdict

import numpy as np
import pytest
import torch

import engram
from engram.errors import InputError
from engram.evaluation import GateOptions, open_model, read_gates
from engram.evaluation.telling_ngrams import find_telling
from engram.evaluation.token_readings import read_tokens
from engram.evaluation.token_texts import decode_tokens
from engram.training.document_loss import cut_windows
from engram.training.documents import TrainingDocuments
from support import tiny
from support.layouts import random_memory
from support.tiny import FAMILIES
from support.trained import written_text

FAMILY = "deepseek_v4" if "deepseek_v4" in FAMILIES else "llama"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A random memory, of four streams where the family is there."""
    folder = tmp_path_factory.mktemp("telling")
    base = tiny.base_model(FAMILY, folder / "base")
    streams = tiny.SIZES[FAMILY].get("hc_mult", 1)
    return open_model(random_memory(base, folder / "attached", "demo", hc_mult=streams))


def counted(windows, readings, opened, top, min_count):
    """What is told, counted token by token."""
    token_map, tokens = opened.addresses.token_map, []
    for window in windows:
        tokens += [(window, at) for at in range(len(window.ids))]
    places = defaultdict(list)
    for number, (window, at) in enumerate(tokens):
        for order in (2, 3, 4):
            if at + 1 >= order:
                key = tuple(token_map[window.ids[at + 1 - order : at + 1]].tolist())
                places[key].append(number)
    longer = {key for key in places if any(places[key] == it for it in after(places, key))}
    rows = []
    for key, found in places.items():
        if key in longer:
            continue
        gains = []
        for number in found:
            window, at = tokens[number]
            if at + 1 < len(window.ids):
                gains.append(readings.loss_off[number + 1] - readings.loss[number + 1])
        window, at = tokens[found[0]]
        text = decode_tokens(opened.tokenizer, window.ids[at + 1 - len(key) : at + 1].tolist())
        gates = np.mean([readings.gates[number] for number in found], axis=0, dtype=np.float64)
        rows.append((key, text, found, gates, gains))
    told = []
    for layer in range(readings.gates.shape[1]):
        for stream in range(readings.gates.shape[2]):
            often = [row for row in rows if len(row[2]) >= min_count]
            often.sort(key=lambda row: (-row[3][layer, stream], -len(row[2]), len(row[0]), row[2]))
            for key, text, found, gates, gains in often[:top]:
                gain = math.fsum(gains) / len(gains) if gains else None
                place = readings.layer_ids[layer], stream
                mean = gates[layer, stream]
                told.append(("gate", len(key), text, len(found), mean, *place, gain))
    often = [row for row in rows if len(row[4]) >= min_count]
    often.sort(
        key=lambda row: (-math.fsum(row[4]) / len(row[4]), -len(row[4]), len(row[0]), row[2])
    )
    for key, text, _, gates, gains in often[:top]:
        gain = math.fsum(gains) / len(gains)
        told.append(("gain", len(key), text, len(gains), gates.mean(), None, None, gain))
    return told


def after(places, key):
    """Places of the n-grams of the next order that end with an n-gram."""
    return [found for other, found in places.items() if other[1:] == key]


def documents_of(numbers):
    """Short documents of few different tokens, so that n-grams repeat."""
    words = numbers.sample(range(3, 540), 7)
    return [np.array(numbers.choices(words, k=numbers.randrange(1, 30))) for _ in range(12)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("min_count", [1, 2, 5])
def test_all_are_those_of_a_count_in_python(opened, seed, min_count):
    windows = cut_windows(documents_of(random.Random(seed)), 13)
    readings = read_tokens(opened.model, windows)
    options = GateOptions(top=6, min_count=min_count)
    found = find_telling(readings, windows, opened.addresses, opened.tokenizer, options)
    expected = counted(windows, readings, opened, 6, min_count)
    assert len(found) == len(expected) > 6
    for one, (by, order, text, count, mean, layer_id, stream, gain) in zip(
        found, expected, strict=True
    ):
        assert (one.by, one.order, one.text, one.count) == (by, order, text, count)
        assert (one.layer_id, one.stream) == (layer_id, stream)
        assert one.gate_mean == pytest.approx(mean, rel=1e-6)
        assert one.gain == (None if gain is None else pytest.approx(gain, rel=1e-6, abs=1e-9))


def test_a_text_is_read_up_to_some_tokens(opened, tmp_path):
    text = written_text(tmp_path)
    options = GateOptions(tokens=300, top=3, min_count=2)
    answer = read_gates(opened, data=text, options=options).to_dict()
    assert (answer["text"], answer["tokens"]) == ("", [])
    assert answer["notes"][0].startswith("300 of ")
    assert "in random order" in answer["notes"][0]
    gates = [(it["layer_id"], it["stream"]) for it in answer["telling"] if it["by"] == "gate"]
    pairs = [(layer, stream) for layer in (1, 2) for stream in range(answer["streams"])]
    assert gates == [pair for pair in pairs for _ in range(3)]
    assert sum(it["by"] == "gain" for it in answer["telling"]) == 3
    assert all(it["count"] >= 2 for it in answer["telling"])
    assert read_gates(opened, data=text, options=options).to_dict() == answer
    (tmp_path / "short.txt").write_text("")
    with pytest.raises(InputError):
        read_gates(opened, data=tmp_path / "short.txt")


def test_shards_and_their_text_tell_the_same(opened, tmp_path):
    text = written_text(tmp_path)
    engram.build_corpus(text, opened.tokenizer, tmp_path / "tokens")
    options = GateOptions(tokens=500, top=4)
    one, other = (
        read_gates(opened, data=it, options=options) for it in (text, tmp_path / "tokens")
    )
    assert one.telling == other.telling
    assert one.notes == other.notes


def test_the_one_ngram_that_opens_the_gate_comes_first(tmp_path):
    """Hidden states are the same everywhere, and only the rows of one n-gram agree with them."""
    base = tiny.base_model("llama", tmp_path / "base")
    folder = tiny.attached_model(base, tmp_path / "attached", tiny.memory_config(layer_ids=[1]))
    opened = open_model(folder)
    text = tmp_path / "text.txt"
    words = ("By", "A", "I") * 4
    text.write_text("\n\n".join(f"{word} saw the Milky Way {word}" for word in words))
    documents = TrainingDocuments(text, opened.tokenizer)
    ids = opened.tokenizer.tokenizer.encode("By saw", add_special_tokens=False).ids[-4:]
    rows = engram.look_up(folder, "By saw").layers[0].rows[-1].ravel()
    with torch.no_grad():
        opened.model.get_input_embeddings().weight.copy_(torch.linspace(-1, 1, tiny.HIDDEN))
        for name, parameter in opened.model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        (memory,) = (it for it in opened.model.modules() if isinstance(it, engram.EngramModule))
        hidden = torch.linspace(-1, 1, tiny.HIDDEN)
        (table,) = memory.multi_head_embedding.parameters()
        table.zero_()
        table[torch.from_numpy(rows)] = 1
        width = memory.key_proj.weight.shape[1]
        # The mean of all rows has to be above 0.9 for the key to point where the hidden state does.
        memory.key_proj.weight.copy_(hidden[:, None].expand(-1, width) / width)
        memory.key_proj.bias.copy_(-0.9 * hidden)
    options = GateOptions(tokens=documents.n_tokens, min_count=2)
    telling = read_gates(opened, data=text, options=options).telling
    first, second = telling[:2]
    assert (first.by, first.order, first.layer_id, first.stream) == ("gate", 4, 1, 0)
    assert first.text == decode_tokens(opened.tokenizer, ids)
    assert first.count == 12
    assert first.gate_mean > 0.8
    assert second.gate_mean < 0.5
