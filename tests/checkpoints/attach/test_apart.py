"""What is read is never what is written: not by a link, not by a relative path, not within."""

from __future__ import annotations

import json
import shutil

import pytest

from engram.checkpoints.attach import attach
from engram.checkpoints.attach.detach import detach
from engram.checkpoints.convert.convert import convert
from engram.errors import InputError
from engram.storage.stored import read_folder_headers
from support import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)


@pytest.fixture
def place(folders, tmp_path, monkeypatch):
    """A folder with copies of a base and an attached folder, links to them, and as cwd."""
    for name, folder in zip(("base", "attached"), folders, strict=True):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / f"link-to-{name}").symlink_to(tmp_path / name)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


OUTPUTS = ["{}", "./sub/../{}", "link-to-{}", "{}/new", "link-to-{}/new", "."]
WRITERS = {
    "attach": ("base", lambda source, out: attach.attach(source, tiny.memory_config(), out)),
    "attach over": (
        "base",
        lambda source, out: attach.attach(source, tiny.memory_config(), out, overwrite=True),
    ),
    "convert": (
        "attached",
        lambda source, out: convert(source, out, dtype="bfloat16", overwrite=True),
    ),
    "detach": ("attached", detach),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "output", ["{}", "./sub/../{}", "link-to-{}", "{}/new", "link-to-{}/new", "."]
)
def test_an_output_that_is_not_apart_from_the_input_is_refused(place, writer, output):
    name, write = WRITERS[writer]
    before = content(place)
    for source in (name, f"link-to-{name}", place / name):
        with pytest.raises(InputError, match="which is read|what is read"):
            write(source, (place / output.format(name)).relative_to(place))
    assert content(place) == before


def test_folders_side_by_side_are_apart(place):
    attach.attach("base", tiny.memory_config(), place / "base-attached")
    detach("base-attached", place / "base-again")


@pytest.mark.parametrize("dtype", [None, "fp8"])
def test_total_size_counts_the_bytes_of_tensors(place, dtype):
    attach.attach("base", tiny.memory_config(), place / "made", dtype=dtype)
    convert("made", place / "again", dtype="float16")
    for folder in (place / "made", place / "again"):
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        tensors = read_folder_headers(folder).values()
        assert index["metadata"]["total_size"] == sum(it.stop - it.start for it in tensors)
