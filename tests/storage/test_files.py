"""Files of results: whole or not there; links stay, devices, pipes and folders are refused."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from engram.errors import InputError, MissingFileError
from engram.storage.files import atomic_write, check_file
from engram.storage.folders import check_folder
from support.cli import run


def write(path: Path, text: str = "new") -> None:
    with atomic_write(path, "w") as file:
        file.write(text)


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(TypeError):
        write(file, 7)  # no text
    assert file.read_text() == "old"
    write(file)
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "a.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to("far/a.txt")
    with pytest.raises(InputError, match="already there"):
        check_file(link, overwrite=False)
    check_file(link, overwrite=True)
    write(link)
    assert link.readlink() == Path("far/a.txt")
    assert target.read_text() == "new"
    assert list((tmp_path / "far").iterdir()) == [target]
    target.unlink()
    check_file(link, overwrite=False)
    write(link, "anew")
    assert (link.is_symlink(), target.read_text()) == (True, "anew")


def test_what_is_no_file_is_refused_and_stays(tmp_path):
    pipe, link, circle = (tmp_path / name for name in ("pipe", "to_pipe", "circle"))
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    circle.symlink_to(circle)
    (tmp_path / "folder").mkdir()
    (tmp_path / "to_folder").symlink_to("folder")
    places = {pipe: "a named pipe", link: "a named pipe", circle: "a link that leads in a circle"}
    places |= {tmp_path / "folder": "a folder", tmp_path / "to_folder": "a folder"}
    places |= {Path("/dev/null"): "a device", Path("/dev/stdout"): "a stream"}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        places[tmp_path / "socket"] = "a socket"
        for path, what in places.items():
            before = path.lstat()
            for overwrite in (False, True):
                with pytest.raises(InputError, match=f"{path} is {what}") as refusal:
                    check_file(path, overwrite)
                assert "--overwrite" not in refusal.value.hint
            with pytest.raises(InputError, match=f"{path} is {what}"):
                write(path)
            assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("words")
    for path in (text / "a", text / "b" / "a"):
        with pytest.raises(InputError, match=f"{text} is a file, not a folder"):
            check_file(path, overwrite=True)
        with pytest.raises(InputError, match=f"{text} is a file, not a folder"):
            check_folder(path, lambda _: set(), overwrite=True)
    with pytest.raises(MissingFileError, match="none does not exist"):
        check_file(tmp_path / "none" / "a", overwrite=True)
    assert text.read_text() == "words"


@pytest.mark.parametrize(
    "line",
    [
        "config new smollm2 -o {}",
        "size --budget 40M --hidden-size 64 --vocab 999 --layers 1 --emit {}",
    ],
)
def test_commands_leave_a_pipe_alone(line, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = run(*line.format(pipe).split(), "--overwrite").ended(3)
    assert f"{pipe} is a named pipe; it is not replaced." in done.stderr
    assert stat.S_ISFIFO(pipe.stat().st_mode)
