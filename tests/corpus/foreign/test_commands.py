"""hash, its statistics, datasets, train and eval take corpora of other tools like our own."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
import torch

from engram import HashedDataset
from engram.config.config_file import write_config
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.text.text_options import TextOptions
from engram.training import train
from engram.training.documents import TrainingDocuments
from support import foreign_corpora as foreign
from support import tiny, trained
from support.cli import run
from support.hashed import CONFIG, T, documents_of
from support.paths import BPE, WORD

FORMATS = ("megatron", "datatrove", "datasets")


def written(folder, kind, documents):
    if kind == "megatron":
        return foreign.megatron(folder / "m", documents, 4)
    if kind == "datatrove":
        return foreign.datatrove(folder / "x.ds", documents)
    return foreign.dataset(folder / "d", {"input_ids": foreign.id_lists(documents)}, files=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A text of records, its corpus, a config, and the same documents as other tools have them."""
    folder = tmp_path_factory.mktemp("place")
    records = [json.dumps({"text": text}) for text in documents_of("texts")[0]]
    (folder / "text.jsonl").write_text("\n".join(records))
    build_corpus(folder / "text.jsonl", BPE, folder / "ours", options=TextOptions(shard_tokens=900))
    write_config(folder / "memory.yaml", CONFIG)
    for kind in FORMATS:
        (folder / kind).mkdir()
        written(folder / kind, kind, documents_of("ids")[1])
    return folder


def corpus(place, kind):
    return place / "datasets" / "d" if kind == "datasets" else place / kind


@pytest.mark.parametrize("kind", FORMATS)
def test_statistics_are_those_of_the_text(place, kind):
    words = ("-c", place / "memory.yaml", "--stats", "--cache-curve", "--json")
    expected = run("hash", place / "ours", *words).json()
    found = run("hash", corpus(place, kind), *words).json()
    # Other tools do not say whether documents end with a token.
    assert found.pop("tokenizer").pop("eos_id") is None
    expected.pop("tokenizer")
    for answer in (expected, found):
        for key in ("seconds", "tokens_per_second", "eos_token"):
            answer.pop(key)
    assert found == expected


@pytest.mark.parametrize("kind", FORMATS)
def test_ids_are_those_of_the_text(place, kind, tmp_path):
    words = ("-c", place / "memory.yaml", "--shard-size", "700", "--json")
    run("hash", place / "ours", *words, "-o", tmp_path / "a").ended(0)
    run("hash", corpus(place, kind), *words, "-o", tmp_path / "b").ended(0)
    names = sorted(file.name for file in (tmp_path / "a").glob("*.npy"))
    assert len(names) > 6
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    run("corpus", "verify", tmp_path / "b").ended(0)
    again = run("hash", corpus(place, kind), *words, "-o", tmp_path / "b", "--resume").json()
    assert again["was_finished"]


@pytest.mark.parametrize("kind", FORMATS)
def test_windows_are_those_of_the_text(place, kind):
    expected = list(HashedDataset(place / "ours", CONFIG, window_tokens=T))
    found = list(HashedDataset(corpus(place, kind), CONFIG, window_tokens=T))
    assert len(found) == len(expected) > 20
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in other)


def test_shards_of_llm_c_are_hashed_by_the_documents_that_they_begin(tmp_path):
    documents = [[0, *ids] for ids in documents_of("ids")[0]]
    foreign.llm_c(tmp_path / "t_0.bin", documents[:50])
    foreign.llm_c(tmp_path / "t_1.bin", documents[50:])
    found = run("hash", tmp_path / "t_*.bin", "-t", BPE, "--json").json()
    assert found["documents"] == len(documents)
    assert found["tokens"] == sum(map(len, documents))
    foreign.datatrove(tmp_path / "x.ds", documents)
    assert found["layers"] == run("hash", tmp_path / "x.ds", "-t", BPE, "--json").json()["layers"]


def test_a_tokenizer_is_asked_for_where_none_is_stated(place, tmp_path):
    error = run("hash", place / "megatron", "--json").error(3)
    assert "does not say which tokenizer" in error["message"]
    assert "-t" in error["hint"]
    path = foreign.datatrove(tmp_path / "x.ds", documents_of("ids")[1], metadata=str(BPE))
    assert run("hash", path, "--json").json()["tokenizer"]["name"] == str(BPE)
    assert "token 5" in run("hash", path, "-t", WORD, "--json").error(5)["message"]
    assert "no digests" in run("hash", path, "-t", BPE, "--check", "--json").error(2)["message"]
    assert "holds tokens" in run("hash", path, "-t", BPE, "--no-eos", "--json").error(2)["message"]


def test_hash_notes_a_stated_tokenizer_that_is_not_the_one_used(place, tmp_path):
    path = foreign.datatrove(tmp_path / "x.ds", documents_of("ids")[1], metadata="meta/Llama-3")
    assert "of meta/Llama-3" in run("hash", path, "-t", BPE).ended(0).stderr
    assert "Llama" not in run("hash", place / "datatrove", "-t", BPE).ended(0).stderr


def test_a_corpus_that_changed_is_not_resumed(place, tmp_path):
    path = foreign.datatrove(tmp_path / "x.ds", documents_of("ids")[1])
    words = ("hash", path, "-c", place / "memory.yaml", "-o", tmp_path / "ids", "--json")
    run(*words).ended(0)
    foreign.datatrove(tmp_path / "x.ds", [[7, 8], *documents_of("ids")[1]])
    assert not run(*words, "--resume", "--overwrite").json()["was_finished"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny attached model, a text, and its documents in other formats."""
    folder = tmp_path_factory.mktemp("models")
    base = tiny.base_model("llama", folder / "base")
    attached = tiny.attached_model(base, folder / "attached")
    text = trained.written_text(folder)
    documents = TrainingDocuments(text, base)
    lists = [documents.tokens(number).tolist() for number in range(len(documents))]
    for kind in FORMATS:
        (folder / kind).mkdir()
        written(folder / kind, kind, lists)
    train(attached, folder / "expected", text, options=trained.options(steps=2))
    return folder


def weights(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


@pytest.mark.parametrize("kind", FORMATS)
def test_training_is_that_of_the_text_bit_for_bit(models, kind, tmp_path):
    where = corpus(models, kind)
    result = train(models / "attached", tmp_path / "out", where, options=trained.options(steps=2))
    assert weights(tmp_path / "out") == weights(models / "expected")
    assert (
        result.to_dict()["data"]["tokens"]
        == TrainingDocuments(models / "text.txt", models / "base").n_tokens
    )


def test_the_command_line_trains_and_evaluates(models, tmp_path):
    short = ("--steps", "1", "--context", "32", "--batch", "2", "--set", "use_cpu=true")
    prefix = models / "megatron" / "m"
    words = ("train", models / "attached", "--corpus", prefix, "-o", tmp_path / "out", "--json")
    found = run(*words, *short).json()
    # A text that holds the same documents is the one that was trained on, whatever its format.
    some = ("--tokens", "300", "--context", "32", "--bootstrap", "20", "--json")
    answers = [
        run("eval", tmp_path / "out", *source, "--seen", models / "datatrove", *some).json()
        for source in (("--text", models / "text.txt"), ("--corpus", prefix))
    ]
    assert [answer["split"] for answer in answers] == ["held_out", "held_out"]
    assert answers[0]["runs"] == answers[1]["runs"]
    assert found["data"]["documents"] > 70


def test_train_and_eval_note_a_stated_tokenizer_that_is_not_the_models(models, tmp_path):
    lists = [[3, 4, 5, 6]] * 60
    path = foreign.datatrove(tmp_path / "x.ds", lists, metadata="meta/Llama-3")
    options = trained.options(steps=1)
    result = train(models / "attached", tmp_path / "out", path, options=options)
    assert ["meta/Llama-3" in note for note in result.to_dict()["notes"]] == [True]
    some = ("--tokens", "100", "--context", "32", "--bootstrap", "20", "--json")
    answer = run("eval", tmp_path / "out", "--corpus", path, *some).json()
    assert sum("meta/Llama-3" in note for note in answer["notes"]) == 1


def test_corpora_of_another_tokenizer_are_refused_before_a_step(models, tmp_path):
    documents = [[3, 4, 5]] * 50 + [[3, 100_000]]
    path = foreign.megatron(tmp_path / "m", documents, 4)
    words = ("train", models / "attached", "--corpus", path, "-o", tmp_path / "out", "--json")
    error = run(*words, "--steps", "1", "--context", "32", "--set", "use_cpu=true").error(5)
    assert "token 100,000" in error["message"]
    assert sorted(it.name for it in tmp_path.iterdir()) == ["m.bin", "m.idx"]


def test_columns_of_data_sets(models, tmp_path):
    documents = documents_of("ids")[1]
    columns = {"mine": foreign.id_lists(documents), "text": pa.array(documents_of("texts")[0])}
    folder = foreign.dataset(tmp_path / "d", columns)
    as_text = run("hash", folder, "-t", BPE, "--json").json()
    as_tokens = run("hash", folder, "-t", BPE, "--text-column", "mine", "--json").json()
    assert as_text["layers"] == as_tokens["layers"]
    assert as_text["eos_token"] is not None
    assert as_tokens["eos_token"] is None
    error = run("train", models / "attached", "--corpus", folder, "-o", "o", "--json").error(2)
    assert f"--text {folder}" in error["hint"]
    assert "datatrove" in error["hint"]
    assert as_text["tokens"] == sum(map(len, documents))
