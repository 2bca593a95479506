import json
import os

import pytest

from engram.errors import CorruptFileError, MissingFileError
from engram.storage.json_files import (
    COUNT,
    FILE_NAME,
    NUMBER,
    TEXT,
    Each,
    Kind,
    Maybe,
    find_json,
    parse_json,
    read_json,
)
from engram.storage.npy_files import read_npy
from engram.storage.safetensors_headers import INDEX_FILE
from engram.storage.stored import read_folder_headers

SHAPE = {
    "files": [{"name": FILE_NAME, "bytes": COUNT}],
    "share": Maybe(NUMBER),
    "by_name": Maybe(Each(TEXT)),
}
RIGHT = {"files": [{"name": "a.npy", "bytes": 0}], "share": 0.5, "by_name": {"a": "b"}, "more": []}


def told(content, shape=SHAPE):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(CorruptFileError) as caught:
        parse_json(data, "F", shape)
    return caught.value.message


def test_what_is_right_is_read(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("\ufeff" + json.dumps(RIGHT), encoding="utf-8")
    assert read_json(file, SHAPE) == RIGHT
    file.write_text(json.dumps({"files": []}))
    assert read_json(file, SHAPE) == {"files": []}
    assert parse_json(b'{"a": "\\ud83d\\ude00"}', "F") == {"a": "\U0001f600"}
    with pytest.raises(MissingFileError, match="does not exist"):
        read_json(tmp_path / "b.json")
    with pytest.raises(CorruptFileError, match="a folder"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"files": {}}, "files is {}, not a list"),
        ({"files": [3]}, "files[0] is 3, not an object"),
        ({"files": [{"name": "a"}]}, "files[0].bytes is missing"),
        ({"files": [{"name": "a", "bytes": "1"}]}, "files[0].bytes is '1', not a whole number"),
        ({"files": [{"name": "a", "bytes": True}]}, "files[0].bytes is True"),
        ({"files": [{"name": "a", "bytes": -1}]}, "files[0].bytes is -1"),
        ({"files": [{"name": "a", "bytes": 1.0}]}, "files[0].bytes is 1.0"),
        ({"files": [{"name": "a", "bytes": 10**400}]}, "is a number of 1329 bits"),
        ({"files": [{"name": "../a", "bytes": 1}]}, "name of a file of its folder"),
        ({"files": [{"name": "/a", "bytes": 1}]}, "name of a file of its folder"),
        ({"share": float("nan")}, "share is nan, not a finite number"),
        ({"by_name": {"a": None}}, "by_name['a'] is None, not a text"),
    ],
)
def test_the_first_wrong_value_is_named(change, says):
    assert says in told({**RIGHT, **change})


def test_every_wrong_value_is_named_by_its_path():
    with pytest.raises(CorruptFileError) as caught:
        parse_json(b'{"files": [{"name": 3}, {"bytes": 1}], "share": "half"}', "F", SHAPE)
    problems = caught.value.details["problems"]
    assert [problem.split()[0] for problem in problems] == [
        *("files[0].name", "files[0].bytes", "files[1].name", "share"),
    ]
    assert caught.value.message == f"F is damaged: {'; '.join(problems)}."
    assert told({"files": [{}] * 20}).endswith("; and 30 more.")


def test_a_rule_that_is_added_to_a_shape():
    rising = Kind("rising", lambda items: items == sorted(items), [COUNT])
    assert parse_json(b'{"a": [1, 2]}', "F", {"a": rising}) == {"a": [1, 2]}
    assert "a is [2, 1], not rising" in told({"a": [2, 1]}, {"a": rising})
    assert told({"a": [2, "1"]}, {"a": rising}).count("not ") == 1
    assert "it has the key '', not a name" in told({"": 1}, Each(COUNT, Kind("a name", bool)))


def test_json_that_may_be_missing(tmp_path):
    file = tmp_path / "a.json"
    assert find_json(file) is None
    for content in (b"", b"[]", b'{"files": 1}'):
        file.write_bytes(content)
        assert find_json(file, SHAPE) is None
    file.write_text(json.dumps(RIGHT))
    assert find_json(file, SHAPE) == RIGHT


def test_what_is_no_json_or_hostile():
    assert "not JSON" in told(b"")
    assert "byte 6 is 0xff, which is not UTF-8" in told(b'{"a":"\xff"}')
    for deep in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 500 + b"]" * 500):
        assert "nested more than 100 deep" in told(deep)
    assert "4300 digits" in told(b'{"a": ' + b"9" * 5000 + b"}")
    assert "half of a surrogate pair" in told(b'{"a\\ud800": 1}')
    assert len(told({**RIGHT, "files": "x" * 10_000})) < 300


def test_npy_files_of_every_wrong_kind(tmp_path):
    import numpy as np

    file = tmp_path / "a.npy"
    np.save(file, np.arange(5))
    assert read_npy(file, 1, hint="").tolist() == [0, 1, 2, 3, 4]
    data = file.read_bytes()

    def header(text):
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text

    for content in (
        b"",
        data[:40],
        data[:-1],
        data.replace(b"(5,)", b"(-5,"),
        data.replace(b"(5,)", b"(9**"),
        data.replace(b"<i8", b"|O8"),
        b"PK\x03\x04" + data,
        b"\x80\x04N." + data,
        header(b"(" * 5000),
        header(b"{'descr': '<i8', 'fortran_order': False, 'shape': (%s,)}" % (b"9" * 60)),
        header(b"{'descr': [('\xff', 3)], 'fortran_order': 1, 'shape': 0}"),
    ):
        file.write_bytes(content)
        with pytest.raises(CorruptFileError, match="cannot be read as an .npy file"):
            read_npy(file, 1, hint="")


def test_an_index_of_shards_is_bounded_too(tmp_path):
    index = tmp_path / INDEX_FILE
    index.touch()
    os.truncate(index, 2**40)
    with pytest.raises(CorruptFileError, match="is larger than 100,000,000 bytes"):
        read_folder_headers(tmp_path)
