"""Corpora of other tools: the same documents from every format, and refusals by name."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.foreign import foreign_tokens
from engram.corpus.foreign.find_tokens import find_tokens
from engram.corpus.hash.hashed_dataset import HashedDataset
from engram.corpus.text.text_options import TextOptions
from engram.errors import CorruptFileError, InputError, MismatchError, UsageError
from engram.training.documents import TrainingDocuments
from support import foreign_corpora as foreign
from support import tiny
from support.hashed import documents_of
from support.paths import BPE

# Documents of ids below 544, which begin with the start-of-text token.
DOCUMENTS = [[0, *ids] for ids in documents_of("ids")[0]]
CODES = [3, 4, 5, 8]


def split(documents):
    return documents[:40], documents[40:]


def several(write, folder, names):
    for name, part in zip(names, split(DOCUMENTS), strict=True):
        write(folder / name, part)
    return folder


FORMATS = {
    **{f"megatron {code}": lambda at, code=code: foreign.megatron(at / "x", DOCUMENTS, code)
       for code in CODES},
    "megatron in sentences": lambda at: foreign.megatron(at / "x", DOCUMENTS, 8, pieces=3),
    "megatrons": lambda at: several(foreign.megatron, at, ("a_document", "b_document")),
    "datatrove": lambda at: foreign.datatrove(at / "x.ds", DOCUMENTS, metadata="a/b|c"),
    "datatrove 4": lambda at: foreign.datatrove(at / "x.ds", DOCUMENTS, 4),
    "datatroves": lambda at: several(foreign.datatrove, at, ("00000.ds", "00001.ds")),
    "llm.c": lambda at: foreign.llm_c(at / "x.bin", DOCUMENTS),
    "llm.c of llama 3": lambda at: foreign.llm_c(at / "x.bin", DOCUMENTS, foreign.LLAMA3),
    "llm.c shards": lambda at: several(foreign.llm_c, at, ("t_000.bin", "t_001.bin")),
    "datasets": lambda at: foreign.dataset(at / "x", {"input_ids": foreign.id_lists(DOCUMENTS)}),
    "datasets, of files": lambda at: foreign.dataset(
        at / "x", {"input_ids": foreign.id_lists(DOCUMENTS, "uint16")}, files=3, batch_rows=7
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_holds_the_same_documents(tmp_path, kind):
    where = FORMATS[kind](tmp_path)
    found = find_tokens(where)
    assert found.format == kind.split(" ")[0].strip(",").removesuffix("s").replace(
        "dataset", "datasets"
    )
    tokens = found.open(load_tokenizer(BPE))
    flat = np.concatenate([np.array(it) for it in DOCUMENTS])
    bounds = np.cumsum([0, *map(len, DOCUMENTS)])
    assert tokens.n_tokens == len(flat)
    np.testing.assert_array_equal(tokens.boundaries(), bounds)
    batches = list(tokens.batches())
    np.testing.assert_array_equal(np.concatenate([it.tokens for it in batches]), flat)
    assert [length for it in batches for length in np.diff(it.boundaries)] == [
        len(it) for it in DOCUMENTS
    ]
    assert batches[-1].read_bytes == tokens.total_bytes
    starts = np.zeros(len(flat), dtype=bool)
    starts[bounds[:-1]] = True
    rng = np.random.default_rng(1)
    for begin, end in np.sort(rng.integers(0, len(flat) + 1, (50, 2))):
        ids, are_starts = tokens.read(begin, end)
        assert ids.dtype == np.uint16
        np.testing.assert_array_equal(ids, flat[begin:end])
        np.testing.assert_array_equal(are_starts, starts[begin:end])
    # A digest is that of any source with these documents.
    in_memory = TrainingDocuments(DOCUMENTS, BPE, options=TextOptions(add_eos=False))
    assert tokens.sha256 == in_memory.sha256


def test_a_megatron_has_three_names_and_shards_a_pattern(tmp_path):
    foreign.megatron(tmp_path / "a.b_document", DOCUMENTS)
    for name in ("a.b_document", "a.b_document.bin", "a.b_document.idx"):
        (file,) = find_tokens(tmp_path / name).files
        assert file == tmp_path / "a.b_document.bin"
    several(foreign.llm_c, tmp_path, ("train_000.bin", "train_001.bin"))
    foreign.llm_c(tmp_path / "val_000.bin", DOCUMENTS)
    assert len(find_tokens(tmp_path / "train_*.bin").files) == 2
    assert find_tokens(tmp_path / "test_*.bin") is None


def test_what_is_to_be_held_out_is_not_read_by_accident(tmp_path):
    foreign.llm_c(tmp_path / "fineweb_train_000001.bin", DOCUMENTS)
    foreign.llm_c(tmp_path / "fineweb_val_000000.bin", DOCUMENTS)
    with pytest.raises(InputError, match="several series of shards: fineweb_train, fineweb_val"):
        find_tokens(tmp_path)
    for name in ("train", "test"):
        foreign.dataset(tmp_path / "d" / name, {"input_ids": foreign.id_lists(DOCUMENTS)})
    (tmp_path / "d" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(InputError, match="several data sets: train, test") as caught:
        find_tokens(tmp_path / "d")
    assert str(tmp_path / "d" / "train") in caught.value.hint
    assert find_tokens(tmp_path / "d" / "test").format == "datasets"
    (tmp_path / "d" / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    assert find_tokens(tmp_path / "d").files[0].parent == tmp_path / "d" / "train"


def test_formats_do_not_mix(tmp_path):
    foreign.llm_c(tmp_path / "a.bin", DOCUMENTS)
    foreign.datatrove(tmp_path / "b.ds", DOCUMENTS)
    with pytest.raises(InputError, match=r"holds tokens of llm\.c and tokens of datatrove files"):
        find_tokens(tmp_path)
    (tmp_path / "b.ds").unlink()
    (tmp_path / "a.txt.gz").touch()
    with pytest.raises(InputError, match=r"holds tokens of llm\.c and \.txt files"):
        find_tokens(tmp_path)
    assert find_tokens(tmp_path / "*.bin").format == "llm.c"


@pytest.mark.parametrize(
    "suffix", ["txt", "jsonl", "ndjson", "json", "csv", "tsv", "parquet", "arrow"]
)
def test_tokens_beside_a_text_of_any_kind_are_refused(tmp_path, suffix):
    foreign.datatrove(tmp_path / "a.ds", DOCUMENTS, metadata="a/b")
    (tmp_path / "README.md").write_text("nothing that is read as a text")
    assert find_tokens(tmp_path).format == "datatrove"
    tables = suffix in ("parquet", "arrow")
    for packed in ("",) if tables else ("", ".gz", ".zst", ".GZ"):
        file = tmp_path / f"b.{suffix}{packed}"
        file.touch()
        with pytest.raises(InputError, match=rf"tokens of datatrove and \.{suffix} files"):
            find_tokens(tmp_path)
        assert find_tokens(tmp_path / "*.ds").format == "datatrove"
        file.unlink()


def test_files_of_several_tokenizers_are_refused(tmp_path):
    for name, part in zip("ab", split(DOCUMENTS), strict=True):
        foreign.datatrove(tmp_path / f"{name}.ds", part, metadata=name)
    with pytest.raises(InputError, match="several tokenizers: a, b") as caught:
        find_tokens(tmp_path)
    assert caught.value.details["tokenizers"] == ["a", "b"]
    assert find_tokens(tmp_path / "a*").tokenizer == "a"
    (tmp_path / "b.ds.metadata").unlink()
    assert find_tokens(tmp_path).tokenizer == "a"


def test_another_name_than_the_stated_one_is_noted(tmp_path):
    bpe = load_tokenizer(BPE)
    for stated in (str(BPE), str(BPE / "tokenizer.json"), None):
        path = foreign.datatrove(tmp_path / f"{len(stated or '')}.ds", DOCUMENTS, metadata=stated)
        assert find_tokens(path).note(bpe) is None
    path = foreign.datatrove(tmp_path / "x.ds", DOCUMENTS, metadata="meta-llama/Llama-3")
    note = find_tokens(path).note(bpe)
    assert "meta-llama/Llama-3" in note
    assert str(BPE) in note


def test_texts_and_weights_are_no_tokens(tmp_path):
    (tmp_path / "a.txt").write_text("a text")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\3\4" + bytes(2000))
    (tmp_path / "empty.bin").touch()
    (tmp_path / "lone.idx").write_bytes(b"MMIDIDX\0\0")
    for where in (tmp_path, tmp_path / "a.txt", tmp_path / "empty.bin", "-", tmp_path / "nothing"):
        assert find_tokens(where) is None
    with pytest.raises(UsageError):
        find_tokens("")


@pytest.mark.parametrize("kind", ["megatron 4", "datatrove", "llm.c", "datasets"])
def test_ids_of_another_tokenizer_are_refused(tmp_path, kind):
    found = find_tokens(FORMATS[kind](tmp_path))
    tokens = found.open(replace(load_tokenizer(BPE), vocab_size=23))
    largest = max(map(max, DOCUMENTS))
    assert largest > 23
    for use in (
        lambda: list(tokens.batches()),
        lambda: tokens.read(0, tokens.n_tokens),
        lambda: tokens.sha256,
    ):
        with pytest.raises(MismatchError, match=rf"token {largest}; those of .* are below 23"):
            use()


def test_the_first_id_beyond_a_vocabulary_is_refused(tmp_path):
    for last, is_known in ((543, True), (544, False)):
        path = foreign.datatrove(tmp_path / f"{last}.ds", [[5, 6], [last]])
        tokens = find_tokens(path).open(load_tokenizer(BPE))
        assert tokens.read(0, 2)[0].tolist() == [5, 6]
        if is_known:
            assert tokens.read(2, 3)[0].tolist() == [543]
        else:
            with pytest.raises(MismatchError, match="token 544"):
                tokens.read(2, 3)


def test_negative_ids_are_damage(tmp_path):
    path = foreign.megatron(tmp_path / "x", [[5, -7]], 4)
    with pytest.raises(CorruptFileError, match="-7 is not a token id"):
        list(find_tokens(path).open(load_tokenizer(BPE)).batches())


def test_no_tokens_and_endless_documents_are_refused(tmp_path, monkeypatch):
    bpe = load_tokenizer(BPE)
    with pytest.raises(InputError, match="has no tokens"):
        find_tokens(foreign.megatron(tmp_path / "none", [])).open(bpe)
    with pytest.raises(InputError, match="has no tokens"):
        find_tokens(foreign.datatrove(tmp_path / "none.ds", [[], []])).open(bpe)
    monkeypatch.setattr(foreign_tokens, "MAX_DOCUMENT_TOKENS", 3)
    with pytest.raises(InputError, match="a document of 4 tokens; 3 are the most"):
        find_tokens(foreign.llm_c(tmp_path / "x.bin", [[5, 6, 7, 8]])).open(bpe)


def test_empty_documents_stay_where_they_are(tmp_path):
    documents = [[], [5, 6], [], [], [7], []]
    for path in (
        foreign.megatron(tmp_path / "x", documents),
        foreign.datatrove(tmp_path / "x.ds", documents),
        foreign.dataset(tmp_path / "d", {"input_ids": foreign.id_lists(documents)}, batch_rows=2),
    ):
        tokens = find_tokens(path).open(load_tokenizer(BPE))
        assert tokens.boundaries().tolist() == [0, 0, 2, 2, 2, 3, 3]
        assert tokens.read(0, 3)[0].tolist() == [5, 6, 7]
        assert tokens.read(0, 3)[1].tolist() == [True, False, True]


def test_options_of_texts_are_refused_but_for_the_column_of_a_data_set(tmp_path):
    trove = foreign.datatrove(tmp_path / "x.ds", DOCUMENTS)
    ids = {"tokens": foreign.id_lists(DOCUMENTS), "other": foreign.id_lists(DOCUMENTS[::-1])}
    folder = foreign.dataset(tmp_path / "d", ids)
    for given in ({"text_key": "text"}, {"split": "line"}, {"add_eos": False}):
        with pytest.raises(UsageError, match="holds tokens"):
            TrainingDocuments(trove, BPE, options=TextOptions(**given))
    assert find_tokens(folder) is None
    for column, expected in (("tokens", DOCUMENTS), ("other", DOCUMENTS[::-1])):
        documents = TrainingDocuments(folder, BPE, options=TextOptions(text_key=column))
        assert documents.tokens(0).tolist() == expected[0]
    with pytest.raises(UsageError, match=r"holds tokens: --eos, --no-eos, --split"):
        TrainingDocuments(folder, BPE, options=TextOptions(text_key="tokens", split="line"))


def test_large_files_are_mapped(tmp_path):
    """Two files of 16 GiB that take no disk: what is read lies beyond 2^32 bytes."""
    documents, length = 1024, 2**23
    ends = np.arange(1, documents + 1, dtype="<u8") * length
    trove = tmp_path / "x.ds"
    (tmp_path / "x.ds.index").write_bytes(ends.tobytes())
    lengths, begins = np.full(documents, length, "<i4"), (ends.astype("<i8") - length) * 2
    index = b"MMIDIDX\0\0" + np.array([1], "<u8").tobytes() + b"\x08"
    index += np.array([documents, documents + 1], "<u8").tobytes()
    index += lengths.tobytes() + begins.tobytes() + np.arange(documents + 1, dtype="<i8").tobytes()
    (tmp_path / "m.idx").write_bytes(index)
    for path in (trove, tmp_path / "m.bin"):
        with path.open("wb") as file:
            file.truncate(2 * documents * length)
            file.seek(-4, 2)
            file.write(np.array([500, 7], "<u2").tobytes())
        tokens = find_tokens(path).open(load_tokenizer(BPE))
        assert tokens.n_tokens == documents * length
        last = tokens.n_tokens
        assert tokens.read(last - 3, last)[0].tolist() == [0, 500, 7]
        batch = next(tokens.batches())
        assert len(batch.tokens) == length


def test_digests_are_asked_of_this_toolkits_folders_alone(tmp_path):
    foreign.datatrove(tmp_path / "x.ds", DOCUMENTS, metadata="a/b|c")
    corpus = tmp_path / "x.ds"
    with pytest.raises(UsageError, match="no digests"):
        TrainingDocuments(corpus, BPE, check_digests=True)
    with pytest.raises(UsageError, match="--split"):
        HashedDataset(
            corpus, tiny.memory_config(), window_tokens=4, tokenizer=str(BPE), split="line"
        )
