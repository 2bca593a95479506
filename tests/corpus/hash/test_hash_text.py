"""Text to tokens to hash ids on disk: equal to the reference, whole or not at all, the same."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from engram.addressing.addresses import Addresses
from engram.addressing.reference import hash_ids
from engram.addressing.tokenizer_files import load_tokenizer
from engram.config.engram_config import EngramConfig
from engram.corpus.hash import hash_shards, hashed_text
from engram.corpus.hash.hash_options import HashOptions
from engram.corpus.hash.hash_text import find_memory, hash_text, plan_hash
from engram.corpus.text.readers import TextReader
from engram.corpus.tokens import token_shards, tokenise
from engram.errors import (
    DoesNotFitError,
    InputError,
    MismatchError,
    MissingPackageError,
    UsageError,
)
from support.corpora import digests
from support.paths import BPE, WORD

TEXT = "".join(
    f"Alexander the Great {i} saw the Milky Way.\nÜber {i * 7919} 字 <eos>.\n\n" for i in range(300)
)


def config_of(layout="demo", **values) -> EngramConfig:
    keys = {"tokenizer": str(BPE), "engram_vocab_size": 544, "k": 3, "pad_id": 2}
    shape = {"hidden_size": 8, "n_embed_per_ngram": 8, "n_head_per_ngram": 4, "layer_ids": [3, 1]}
    if layout == "qwen_ple":
        keys |= {"eos_id": 1}
    return EngramConfig(layout=layout, **{**keys, **shape, **values})


def text_file(folder: Path, text: str = TEXT) -> Path:
    path = folder / "text.txt"
    path.write_bytes(text.encode())
    return path


def hash_to(folder: Path, where: Path | str, layout="demo", *, add_eos=False, workers=1, **form):
    options = HashOptions(add_eos=add_eos, **form)
    hashed = hash_text(where, config_of(layout), output=folder, options=options, workers=workers)
    return hashed.counts


# --- tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize("add_eos", [False, True])
def test_tokens_are_those_of_whole_documents(tmp_path, monkeypatch, add_eos):
    monkeypatch.setattr(tokenise, "_BATCH_CHARACTERS", 1000)
    for i in range(5):
        (tmp_path / f"{i}.txt").write_text(TEXT[i * 1000 : (i + 1) * 1000])
    tokenizer = load_tokenizer(str(BPE))
    texts = [text for block in TextReader(tmp_path) for text in block.texts]
    batches = list(tokenise.tokenise(TextReader(tmp_path), tokenizer, add_eos=add_eos))
    found = [
        batch.tokens[start:end].tolist()
        for batch in batches
        for start, end in zip(batch.boundaries[:-1], batch.boundaries[1:], strict=True)
    ]
    end = [1] if add_eos else []
    assert found == [
        tokenizer.tokenizer.encode(t, add_special_tokens=False).ids + end for t in texts
    ]
    assert len(batches) > 1
    assert {batch.tokens.dtype for batch in batches} == {np.dtype(np.uint16)}


def test_no_end_of_text_token_to_add(tmp_path):
    tokenizer = load_tokenizer(str(WORD))
    assert tokenizer.eos_id is None
    with pytest.raises(InputError, match="no end-of-text token"):
        next(tokenise.tokenise(TextReader(text_file(tmp_path)), tokenizer, add_eos=True))


def test_a_document_that_cannot_be_encoded_is_named(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    strict = Tokenizer(models.WordLevel({"one": 0, "two": 1}, unk_token="<none>"))
    strict.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "strict"
    folder.mkdir()
    strict.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(str(folder))
    path = text_file(tmp_path, "one two\n\none\nthree\n\ntwo")
    with pytest.raises(InputError, match=r"text\.txt:3: the tokenizer .* cannot encode"):
        list(tokenise.tokenise(TextReader(path), tokenizer))


# --- ids on disk ------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["demo", "deepseek_v41", "qwen_ple"])
@pytest.mark.parametrize("shard_tokens", [1, 1000, 10**9])
def test_shards_are_read_by_numpy_and_equal_the_reference(
    tmp_path, monkeypatch, layout, shard_tokens
):
    monkeypatch.setattr(hash_shards, "_CHUNK_TOKENS", 300)
    text = TEXT[:6000] if shard_tokens == 1 else TEXT
    path = text_file(tmp_path, text)
    hashed = hash_to(tmp_path / "out", path, layout, add_eos=True, shard_tokens=shard_tokens)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["schema"] == "engram.hashes/1"
    addresses = Addresses.from_dict(manifest["addresses"])
    assert (manifest["token_map_file"] is None) == (layout == "qwen_ple")
    if manifest["token_map_file"] is not None:
        token_map = np.load(tmp_path / "out" / manifest["token_map_file"], allow_pickle=False)
        addresses = addresses.with_map(token_map)
    assert addresses.fingerprint == manifest["fingerprint"]
    tokenizer = load_tokenizer(str(BPE)).tokenizer
    texts = iter([text for block in TextReader(path) for text in block.texts])
    documents = tokens = 0
    for shard in manifest["shards"]:
        parts = [
            np.load(tmp_path / "out" / shard[f"{kind}_file"], allow_pickle=False)
            for kind in ("tokens", "documents", "ids")
        ]
        ids_of_tokens, boundaries, ids = parts
        assert (ids_of_tokens.dtype, boundaries.dtype, ids.dtype) == ("<u2", "<i8", "<i4")
        assert ids.shape == (len(ids_of_tokens), 2, addresses.n_columns)
        assert (len(boundaries) - 1, boundaries[-1]) == (shard["documents"], shard["tokens"])
        assert boundaries[-2] < shard_tokens
        for start, end in pairwise(boundaries):
            encoded = [*tokenizer.encode(next(texts), add_special_tokens=False).ids, 1]
            assert ids_of_tokens[start:end].tolist() == encoded
            expected, _ = hash_ids(addresses, np.array([encoded], dtype=np.int64))
            np.testing.assert_array_equal(ids[start:end], expected[0])
        documents += len(boundaries) - 1
        tokens += len(ids_of_tokens)
    assert next(texts, None) is None
    counts = {"documents": documents, "tokens": tokens, "ids": tokens * 2 * addresses.n_columns}
    assert manifest["counts"] == counts
    assert (hashed.documents, hashed.tokens, hashed.ids) == tuple(counts.values())
    rows = [list(layer.offsets) for layer in addresses.layers]
    assert manifest["ids"]["row_offsets"] == rows
    assert manifest["ids"]["has_offsets"] is False
    assert (len(manifest["shards"]) > 1) == (shard_tokens < 10**9)


def test_the_manifest_lists_every_file(tmp_path):
    hashed = hash_to(tmp_path / "out", text_file(tmp_path))
    files = {file.name: file for file in (tmp_path / "out").iterdir()}
    manifest = json.loads(files.pop("manifest.json").read_text())
    assert [file["name"] for file in manifest["files"]] == sorted(files)
    for file in manifest["files"]:
        data = files[file["name"]].read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert hashed.written_bytes == sum(f.stat().st_size for f in (tmp_path / "out").iterdir())
    assert manifest["tokenizer"]["sha256"] == load_tokenizer(str(BPE)).digest


def test_bytes_depend_on_the_text_alone(tmp_path, monkeypatch):
    path = text_file(tmp_path)
    hash_to(tmp_path / "one", path, shard_tokens=2000)
    expected = digests(tmp_path / "one")
    monkeypatch.setattr(tokenise, "_BATCH_CHARACTERS", 700)
    monkeypatch.setattr("engram.corpus.text.readers._BLOCK_BYTES", 333)
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    with path.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        for workers, where in ((1, path), (2, packed), (3, "-")):
            folder = tmp_path / f"{workers}"
            hash_to(folder, where, workers=workers, shard_tokens=2000)
            assert digests(folder) == expected


def test_parquet_holds_the_same(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(hash_shards, "_CHUNK_TOKENS", 300)
    path = text_file(tmp_path)
    hash_to(tmp_path / "npy", path, shard_tokens=2000)
    hash_to(tmp_path / "parquet", path, shard_tokens=2000, format="parquet")
    one, other = (
        json.loads((tmp_path / name / "manifest.json").read_text())["shards"]
        for name in ("npy", "parquet")
    )
    assert [s["tokens"] for s in one] == [s["tokens"] for s in other]
    number = 0
    for plain, packed in zip(one, other, strict=True):
        table = parquet.read_table(tmp_path / "parquet" / packed["file"])
        tokens, bounds, ids = (
            np.load(tmp_path / "npy" / plain[f"{kind}_file"])
            for kind in ("tokens", "documents", "ids")
        )
        columns = ids.shape[1] * ids.shape[2]
        assert table["document"].to_pylist() == list(range(number, number + len(bounds) - 1))
        for i, (start, end) in enumerate(pairwise(bounds)):
            assert table["tokens"][i].as_py() == tokens[start:end].tolist()
            row = np.array(table["ids"][i].as_py()).reshape(-1, columns)
            np.testing.assert_array_equal(row, ids[start:end].reshape(-1, columns))
        number += len(bounds) - 1


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match="pyarrow") as caught:
        hash_to(tmp_path / "out", text_file(tmp_path), format="parquet")
    assert "engram-toolkit[parquet]" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_the_estimate_is_near_what_is_written(tmp_path):
    path, folder = text_file(tmp_path), tmp_path / "out"
    planned = plan_hash(path, config_of(), output=folder).to_dict()
    written_bytes = hash_to(folder, path, add_eos=True).written_bytes
    assert planned["estimated_bytes"] == pytest.approx(written_bytes, rel=0.05)


# --- whole or not at all ----------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("has_old", [False, True])
def test_what_breaks_off_leaves_what_was_there_and_is_resumed(
    tmp_path, monkeypatch, error, has_old
):
    path, folder = text_file(tmp_path), tmp_path / "results" / "out"
    if has_old:
        hash_to(folder, path)
    before = digests(folder) if has_old else None
    written = []

    def break_off(file):
        written.append(file)
        if len(written) == 5:
            raise error

    monkeypatch.setattr(token_shards, "sync", break_off)
    with pytest.raises(DoesNotFitError if isinstance(error, OSError) else error):
        hash_to(folder, path, shard_tokens=500, overwrite=True)
    names = sorted(f.name for f in folder.parent.iterdir())
    assert names == [".out.building", *(["out"] if has_old else [])]
    if has_old:
        assert digests(folder) == before
    monkeypatch.undo()
    hash_to(folder, path, shard_tokens=500, overwrite=True, resume=True)
    hash_to(tmp_path / "whole", path, shard_tokens=500)
    assert digests(folder) == digests(tmp_path / "whole")
    assert [f.name for f in folder.parent.iterdir()] == ["out"]


def test_a_text_that_goes_wrong_leaves_nothing(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode() * 80 + b"\xff")
    with pytest.raises(InputError, match="UTF-8"):
        hash_to(tmp_path / "out", path, shard_tokens=100_000)
    assert [f.name for f in tmp_path.iterdir()] == ["text.txt"]


def test_what_is_there_is_replaced_only_when_asked_and_ours(tmp_path):
    path, folder = text_file(tmp_path), tmp_path / "out"
    folder.mkdir()
    hash_to(folder, path, shard_tokens=500)
    before = digests(folder)
    with pytest.raises(InputError, match="is there already") as caught:
        hash_to(folder, path)
    assert "--overwrite" in caught.value.hint
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"also holds notes\.txt"):
        hash_to(folder, path, overwrite=True)
    (folder / "notes.txt").unlink()
    assert digests(folder) == before
    hash_to(folder, path, overwrite=True)
    assert set(digests(folder)) < set(before)
    for name, data in (("other", "mine"), ("manifest.json", '{"schema": "x/1", "files": []}')):
        foreign = tmp_path / f"foreign-{name}"
        foreign.mkdir()
        (foreign / name).write_text(data)
        with pytest.raises(InputError, match="nothing in it says that this command wrote it"):
            hash_to(foreign, path, overwrite=True)
        assert (foreign / name).read_text() == data
    with pytest.raises(InputError, match="nothing in it says that this command wrote it"):
        hash_to(path, path, overwrite=True)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "foreign-manifest.json", "foreign-other", "out", "text.txt",
    ]  # fmt: skip


# --- which memory -----------------------------------------------------------------------------


def test_sized_for_the_tokenizer_without_a_config():
    config, tokenizer, addresses = find_memory(None, str(BPE))
    assert (config.layout, config.layer_ids, config.seed) == ("demo", [1, 6], 42)
    assert config.engram_table_size == [2 * 544] * 2
    assert addresses.vocab_size == 447
    assert tokenizer.tokenizer.token_to_id("<pad>") == 2
    assert addresses.fill == addresses.token_map[2]


def test_a_tokenizer_of_another_length_is_refused():
    with pytest.raises(MismatchError, match=r"made for a tokenizer of 544 ids .* has 23"):
        find_memory(config_of(), str(WORD))


def test_the_layers_asked_for_are_those_of_the_config():
    config = config_of()
    ids = np.arange(40).reshape(1, 40)
    whole = find_memory(config)[2]
    for layer_ids in ([1], [3], [1, 3]):
        _, _, addresses = find_memory(config, layer_ids=layer_ids)
        assert addresses.layer_ids == layer_ids
        slots = [whole.layer_ids.index(layer_id) for layer_id in layer_ids]
        expected = hash_ids(whole, ids)[0][:, :, slots]
        np.testing.assert_array_equal(hash_ids(addresses, ids)[0], expected)
    with pytest.raises(InputError, match="must be among those of the memory, 3, 1, got 7"):
        find_memory(config, layer_ids=[7])
    assert find_memory(None, str(BPE), layer_ids=[7])[2].layer_ids == [7]


def test_a_text_without_tokens(tmp_path):
    path = text_file(tmp_path, "\u00a0\n\n \n")
    with pytest.raises(InputError, match="has no tokens"):
        hash_text(path, tokenizer=str(WORD), options=HashOptions(add_eos=False))


def test_progress_counts_bytes_up_to_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenise, "_BATCH_CHARACTERS", 2000)
    monkeypatch.setattr("engram.corpus.text.readers._BLOCK_BYTES", 2000)
    path = text_file(tmp_path)
    steps = []
    hash_text(path, config_of(), progress=lambda done, total: steps.append((done, total)))
    size = path.stat().st_size
    assert len(steps) > 3
    assert steps == sorted(steps)
    assert steps[-1] == (size, size)


def test_an_error_in_the_reading_thread_arrives():
    def items():
        yield 1
        raise InputError("late")

    seen = []
    with pytest.raises(InputError, match="late"):
        seen.extend(hashed_text.some_ahead(items()))


@pytest.mark.parametrize("layers", [[], [1, 1]])
def test_layers_are_named_once_and_at_least_one(layers):
    with pytest.raises(UsageError, match="layers must name at least one layer, and each once"):
        HashOptions(layers=layers)
