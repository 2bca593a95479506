"""Writing hash ids: interrupted and resumed, for any number of workers, the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.hash import hash_shards
from engram.corpus.results.work_folder import work_folder
from engram.errors import DoesNotFitError, InputError
from support.corpora import digests, hash_small, text_file
from support.paths import BPE, TESTS

RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.corpora import hash_small
if __name__ == "__main__":
    step = lambda done, total: print(done, flush=True)
    hash_small(sys.argv[1], Path(sys.argv[2]), workers=int(sys.argv[3]), resume=True,
          progress=step)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_resumed_is_the_same(tmp_path, workers):
    path = text_file(tmp_path)
    hash_small(path, tmp_path / "whole")
    script = tmp_path / "run.py"
    script.write_text(RUN.format(tests=str(TESTS)))
    words = [sys.executable, str(script), str(path), str(tmp_path / "out"), str(workers)]
    rng = random.Random(workers)
    for _ in range(3):
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(rng.randrange(1, 9)):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
    hash_small(path, tmp_path / "out", workers=workers, resume=True)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out", "run.py", "text.txt", "whole"]


def interrupted(where, folder: Path, monkeypatch, after: int) -> Path:
    """Break off when some shards are written, and return what is left."""
    done = []

    def write_shard(*arguments):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(real(*arguments))

    real = hash_shards.write_shard
    with monkeypatch.context() as patch:
        patch.setattr(hash_shards, "write_shard", write_shard)
        with pytest.raises(KeyboardInterrupt):
            hash_small(where, folder)
    return work_folder(folder)


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_shards_that_are_whole_are_not_written_again(tmp_path, monkeypatch, format):
    path = text_file(tmp_path)
    hash_small(path, tmp_path / "whole", format=format)
    real = hash_shards.write_shard
    broken = []

    def write_shard(*arguments):
        if arguments[2].index == 4:
            broken.append(arguments)
            raise OSError(28, "No space left on device")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(hash_shards, "write_shard", write_shard)
        with pytest.raises(DoesNotFitError, match="No space"):
            hash_small(path, tmp_path / "out", format=format)
    assert broken
    assert not (tmp_path / "out").exists()
    work = work_folder(tmp_path / "out")
    torn = next(file for file in work.iterdir() if "00001" in file.name and file.suffix != ".json")
    torn.write_bytes(torn.read_bytes()[:-2])
    hashed = hash_small(path, tmp_path / "out", format=format, resume=True, workers=2)
    assert hashed.resumed_shards == 3
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert not work.exists()


def test_a_corpus_is_resumed_too(tmp_path, monkeypatch):
    path = text_file(tmp_path)
    tokens = tmp_path / "tokens"
    build_corpus(path, load_tokenizer(str(BPE)), tokens)
    hash_small(tokens, tmp_path / "whole")
    interrupted(tokens, tmp_path / "out", monkeypatch, after=2)
    hashed = hash_small(tokens, tmp_path / "out", resume=True)
    assert hashed.resumed_shards == 2
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    of_text = hash_small(path, tmp_path / "text")
    assert digests(tmp_path / "text") == digests(tmp_path / "whole")
    assert (of_text.layers, of_text.growth) == (hashed.layers, hashed.growth)


def test_what_is_unfinished_is_neither_lost_nor_mixed_up(tmp_path, monkeypatch):
    path = text_file(tmp_path)
    work = interrupted(path, tmp_path / "out", monkeypatch, after=2)
    with pytest.raises(InputError, match="unfinished build") as caught:
        hash_small(path, tmp_path / "out")
    assert "--resume" in caught.value.hint
    with pytest.raises(InputError, match="was started with format npy, not parquet"):
        hash_small(path, tmp_path / "out", resume=True, format="parquet")
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match="was started with other inputs"):
        hash_small(path, tmp_path / "out", resume=True)
    assert work.exists()
    assert hash_small(path, tmp_path / "out", overwrite=True).resumed_shards == 0
    assert not work.exists()


def test_what_is_finished_is_recognised(tmp_path):
    path = text_file(tmp_path)
    first = hash_small(path, tmp_path / "out")
    before = digests(tmp_path / "out")
    again = hash_small(path, tmp_path / "out", resume=True)
    assert again.was_finished
    assert again.written_bytes == first.written_bytes
    assert (again.layers, again.growth) == (first.layers, first.growth)
    for differs in ({"format": "parquet"}, {"shard_tokens": 500}, {"add_eos": False}):
        with pytest.raises(InputError, match="is there already"):
            hash_small(path, tmp_path / "out", resume=True, **differs)
    assert digests(tmp_path / "out") == before
