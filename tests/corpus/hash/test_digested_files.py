"""The digest of a file that was taken while it was written is that of the file."""

from hashlib import sha256

import numpy as np
import pytest

from engram.corpus.hash import digested_files
from engram.corpus.hash.digested_files import DigestedFiles
from engram.storage.direct_file import DirectFile


def test_digests_are_those_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(digested_files, "_SYNCED_BYTES", 100)
    synced, sync = [], DirectFile.sync
    monkeypatch.setattr(DirectFile, "sync", lambda file: (synced.append(file.place), sync(file)))
    rng, files = np.random.default_rng(0), DigestedFiles(tmp_path)
    parts = [rng.integers(0, 100, (3, size), np.int32) for size in (10, 0, 1, 25)]
    with files.open("a") as file:
        assert [file.write(part.data) for part in parts] == [120, 0, 12, 300]
    with files.open("empty") as file:
        pass
    assert (tmp_path / "a").read_bytes() == b"".join(part.tobytes() for part in parts)
    assert synced == [120, 432, 432, 0]
    assert files.digests == {
        name: sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a", "empty")
    }


def test_a_file_that_breaks_off_has_no_digest(tmp_path):
    files = DigestedFiles(tmp_path)

    def break_off():
        with files.open("a") as file:
            file.write(b"begun")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert files.digests == {}
