"""Finished folders whose files are missing or changed: noticed by whoever goes on with them."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress

import numpy as np
import pytest

from engram.addressing.tokenizer_files import load_tokenizer
from engram.config.engram_config import EngramConfig
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.hash.hash_options import HashOptions
from engram.corpus.hash.hash_text import hash_text
from engram.corpus.hash.hashed_dataset import HashedDataset
from engram.corpus.text.sources import find_sources
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens.token_shards import StoredTokens
from engram.corpus.verify.verify_corpus import verify_corpus
from engram.errors import CorruptFileError, EngramError
from engram.storage.files import sha256_of
from support.cli import run
from support.paths import BPE

CONFIG = EngramConfig(
    layout="demo", tokenizer=str(BPE), engram_vocab_size=544, k=3, pad_id=2, hidden_size=8,
    n_embed_per_ngram=8, n_head_per_ngram=4, layer_ids=[3, 1],
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("text")
    (path / "text.txt").write_text(
        "".join(f"Paragraph {i} on the Milky Way.\n\n" for i in range(99))
    )
    build(path)
    hash_ids(path)
    hash_ids(path, format="parquet")
    return path


def build(path, **options):
    sources = find_sources(str(path / "text.txt"))[0]
    rules = TextOptions(shard_tokens=500)
    return build_corpus(sources, load_tokenizer(str(BPE)), path / "tokens", rules, **options)


def hash_ids(path, **options):
    name = "parquet" if options.get("format") == "parquet" else "ids"
    form = HashOptions(shard_tokens=500, **options)
    return hash_text(path / "text.txt", CONFIG, output=path / name, options=form).counts


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def remove(file):
    file.unlink()


def empty(file):
    file.write_bytes(b"")


def lengthen(file):
    file.write_bytes(file.read_bytes() + b"x")


@pytest.mark.parametrize("damage", [remove, empty, lengthen])
@pytest.mark.parametrize(("make", "name"), [(build, "tokens"), (hash_ids, "ids")])
def test_resume_calls_no_damaged_folder_finished(folder, tmp_path, make, name, damage):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path
    (path / "text.txt").write_bytes((folder / "text.txt").read_bytes())
    shutil.rmtree(path / name)
    make(path)
    before = contents(path / name)
    assert make(path, resume=True).was_finished
    damage(path / name / "tokens-00001.npy")
    with pytest.raises(CorruptFileError, match=r"damaged: tokens-00001\.npy is") as caught:
        make(path, resume=True)
    assert "--overwrite" in caught.value.hint
    assert not make(path, resume=True, overwrite=True).was_finished
    assert contents(path / name) == before


@pytest.mark.parametrize("damage", [remove, empty, lengthen])
@pytest.mark.parametrize("name", ["tokens", "ids"])
def test_readers_check_names_and_sizes(folder, tmp_path, name, damage):
    path = tmp_path / "copy"
    shutil.copytree(folder / name, path)
    damage(path / "documents-00001.npy")
    with pytest.raises(CorruptFileError, match=r"documents-00001\.npy"):
        StoredTokens(path)
    with pytest.raises(CorruptFileError, match=r"documents-00001\.npy"):
        HashedDataset(path, CONFIG, window_tokens=8)


def change(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def list_again(path):
    """Give a manifest the sizes and digests of the files that are there, as a liar would."""
    manifest = json.loads((path / "manifest.json").read_text())
    for file in manifest["files"]:
        size_bytes = (path / file["name"]).stat().st_size
        file |= {"bytes": size_bytes, "sha256": sha256_of(path / file["name"])}
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_readers_check_digests_when_asked_to(folder, tmp_path):
    path = tmp_path / "copy"
    shutil.copytree(folder / "tokens", path)
    HashedDataset(path, CONFIG, window_tokens=8, check_digests=True)
    change(path / "tokens-00001.npy")
    HashedDataset(path, CONFIG, window_tokens=8)
    with pytest.raises(CorruptFileError, match=r"tokens-00001\.npy was changed"):
        HashedDataset(path, CONFIG, window_tokens=8, check_digests=True)
    for more, code in (([], 0), (["--check"], 3)):
        run("hash", path, "-t", BPE, *more).ended(code)
    done = run("hash", folder / "text.txt", "-t", BPE, "--check").ended(2)
    assert "Leave out --check" in done.stderr


def test_verify_takes_hash_ids(folder, tmp_path):
    checks = verify_corpus(folder / "ids")
    assert [(check.name, check.ok) for check in checks] == [
        ("files", True), ("counts", True), ("hash ids", True),
    ]  # fmt: skip
    assert verify_corpus(folder / "parquet").checks[0].ok
    for name in ("ids", "parquet"):
        path = tmp_path / name
        shutil.copytree(folder / name, path)
        shard = next(path.glob("*-00001*"))
        change(shard)
        (files,) = verify_corpus(path)
        assert (files.ok, files.detail.split()[0]) == (False, shard.name)
        assert not run("corpus", "verify", path, "--json").json(5)["ok"]


def test_verify_hashes_a_sample_again(folder, tmp_path):
    path = tmp_path / "ids"
    shutil.copytree(folder / "ids", path)
    change(path / "ids-00001.npy")
    list_again(path)
    files, _, ids = verify_corpus(path)
    assert (files.ok, ids.ok) == (True, False)
    assert "ids-00001.npy holds other ids" in ids.detail


def test_verify_hashes_a_sample_of_documents_longer_than_it_again(tmp_path):
    (tmp_path / "text.txt").write_text("Milky Way " * 9000)
    hash_ids(tmp_path)
    *_, ids = verify_corpus(tmp_path / "ids")
    assert ids.ok
    assert int(ids.detail.split()[0].replace(",", "")) > 10_000
    array = np.load(tmp_path / "ids" / "ids-00000.npy")
    array[9999, 0, 0] ^= 1
    np.save(tmp_path / "ids" / "ids-00000.npy", array)
    list_again(tmp_path / "ids")
    *_, ids = verify_corpus(tmp_path / "ids")
    assert not ids.ok


@pytest.mark.parametrize(
    "forge",
    [
        lambda array: np.array(3),
        lambda array: array[:, None],
        lambda array: array.astype(float),
        lambda array: np.zeros(array.shape, [("a", "i4")]),
        lambda array: array[:0],
        lambda array: array[::-1],
    ],
    ids=["number", "axis", "floats", "fields", "nothing", "backwards"],
)
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("tokens", "tokens-00001.npy"),
        ("tokens", "documents-00001.npy"),
        ("ids", "documents-00001.npy"),
        ("ids", "ids-00001.npy"),
        ("ids", "token_map.npy"),
    ],
)
def test_forged_arrays_are_damage_whatever_their_digests(folder, tmp_path, name, file, forge):
    path = tmp_path / name
    shutil.copytree(folder / name, path)
    np.save(path / file, forge(np.load(path / file)))
    list_again(path)
    with suppress(EngramError):
        assert not all(check.ok for check in verify_corpus(path))
    if file.startswith("documents"):
        with pytest.raises(CorruptFileError):
            list(HashedDataset(path, CONFIG, window_tokens=8))


@pytest.mark.parametrize("name", ["tokens", "ids"])
def test_boundaries_that_fall_are_damage_to_readers(folder, tmp_path, name):
    path = tmp_path / name
    shutil.copytree(folder / name, path)
    bounds = np.load(path / "documents-00001.npy")
    bounds[3] += 10**6
    np.save(path / "documents-00001.npy", bounds)
    list_again(path)
    with pytest.raises(CorruptFileError, match="boundaries"):
        list(HashedDataset(path, CONFIG, window_tokens=8))
    with pytest.raises(CorruptFileError, match="boundaries"):
        list(StoredTokens(path).batches())
    assert not all(check.ok for check in verify_corpus(path))
