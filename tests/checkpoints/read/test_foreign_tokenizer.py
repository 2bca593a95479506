"""A tokenizer of equal length that compresses otherwise is refused wherever one can be given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engram.addressing.tokenizer_files import load_tokenizer
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.read.lookup import look_up
from engram.errors import MismatchError
from support import tiny
from support.cli import run
from support.paths import BPE


@pytest.fixture(scope="module")
def attached(tmp_path_factory):
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    folder = tmp_path_factory.mktemp("attached") / "out"
    tiny.attached_model(base, folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The tokenizer with two of its tokens exchanged."""
    folder = tmp_path_factory.mktemp("other")
    values = json.loads((BPE / "tokenizer.json").read_text())
    vocab = values["model"]["vocab"]
    named = {index: token for token, index in vocab.items()}
    vocab[named[40]], vocab[named[41]] = 41, 40
    (folder / "tokenizer.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("more", [[], ["-o", "ids"], ["--layers", "1"]])
def test_hash(attached, other, tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the river ran past the old mill\n")
    words = ["hash", "text.txt", "-c", attached, *more]
    assert "map_sha256" in run(*words, "-t", other).ended(5).stderr
    run(*words).ended()


def test_convert_and_look_up(attached, other, tmp_path):
    tokenizer = load_tokenizer(str(other))
    for to in ("attached", "demo"):
        with pytest.raises(MismatchError, match="not the one that the memory was made with"):
            convert(attached, tmp_path / "out", to, tokenizer=tokenizer, dry_run=True)
        convert(
            attached, tmp_path / "out", to, tokenizer=load_tokenizer(str(attached)), dry_run=True
        )
    with pytest.raises(MismatchError):
        look_up(attached, "the river", tokenizer=tokenizer)
