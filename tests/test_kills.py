"""A process killed at any event: the next run of the same command succeeds and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import killed_at

from engram.addressing.tokenizer_files import load_tokenizer
from engram.config import EngramConfig
from engram.corpus.build import BuildRules, build_corpus
from engram.corpus.hashes import Target
from engram.corpus.memory import find_memory
from engram.corpus.pipeline import hash_text
from engram.corpus.readers import TextReader
from engram.corpus.sources import find_sources
from engram.corpus.work import is_resumable
from engram.errors import InputError
from engram.files import atomic_write
from engram.folders import new_folder

BPE = Path(__file__).parent / "golden" / "tokenizers" / "local_bpe"
TEXT = "".join(f"Paragraph {i} on the Milky Way.\n\n" for i in range(40))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def write_file(text, out, resume, overwrite):
    with atomic_write(out, "w") as file:
        file.write("one\n")


def write_folder(text, out, resume, overwrite):
    with new_folder(out, lambda _: {"a", "b"}, overwrite) as new:
        (new / "a").write_text("one")
        (new / "b").mkdir()
        (new / "b" / "c").write_text("two")


def build(text, out, resume, overwrite):
    options = {"resume": resume, "overwrite": overwrite, "unit_bytes": 600}
    rules = BuildRules(shard_tokens=150)
    build_corpus(find_sources(str(text))[0], load_tokenizer(str(BPE)), out, rules, **options)


def hash_ids(text, out, resume, overwrite):
    keys = {"tokenizer": str(BPE), "engram_vocab_size": 544, "k": 3, "pad_id": 2}
    shape = {"hidden_size": 8, "n_embed_per_ngram": 8, "n_head_per_ngram": 4, "layer_ids": [3, 1]}
    _, tokenizer, addresses = find_memory(EngramConfig(layout="demo", **keys, **shape))
    target = Target(out, shard_tokens=150, resume=resume, overwrite=overwrite)
    hash_text(TextReader(text), tokenizer, addresses, target=target, unit_bytes=600)


def contents(out):
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    return {path.relative_to(out): path.read_bytes() for path in files}


def check_kills(write, text, folder, overwrite, first, step):
    """Kill a writer at some of its events, run it again, and compare with an uninterrupted run."""
    write(text, folder / "whole", False, False)
    expected = contents(folder / "whole")
    number = first
    while True:
        results = folder / f"{number}"
        results.mkdir()
        out = results / "out"
        if overwrite:
            write(text, out, False, False)
        if not killed_at(number, results, lambda out=out: write(text, out, False, overwrite)):
            break
        is_finished = out.exists() and not overwrite
        refusal = None
        try:
            write(text, out, number // step % 2 == 0, overwrite)
        except InputError as error:
            refusal = str(error)
        if refusal is not None and is_finished:
            assert "is there already" in refusal
        elif refusal is not None:
            assert "unfinished build" in refusal
            assert is_resumable(out)
            write(text, out, True, overwrite)
        assert contents(out) == expected, number
        assert [path.name for path in results.iterdir()] == ["out"], number
        number += step
    assert number > first + step


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("write", "step"), [(write_file, 1), (write_folder, 2), (build, 31), (hash_ids, 61)]
)
def test_a_kill_at_some_events_is_put_right_by_the_next_run(text, tmp_path, write, step, overwrite):
    check_kills(write, text, tmp_path, overwrite, 1 + 5 * overwrite % step, step)


@pytest.mark.torture
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("write", [write_file, write_folder, build, hash_ids])
def test_a_kill_at_every_event_is_put_right_by_the_next_run(text, tmp_path, write, overwrite):
    check_kills(write, text, tmp_path, overwrite, 1, 1)
