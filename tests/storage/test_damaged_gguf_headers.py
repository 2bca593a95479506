"""Damaged headers of GGUF files: always a typed error or a result, soon and in bounded memory."""

from __future__ import annotations

import random
import struct
import tracemalloc
from contextlib import suppress

import pytest

from engram.errors import CorruptFileError
from engram.storage.gguf_headers import read_gguf, read_gguf_header
from support import gguf_files
from support.gguf_files import Array, Elsewhere, Tensor

VALUES = {
    **gguf_files.every_kind(),
    "a.map": Array("uint32", [3, 1, 2]),
    "a.names": Array("string", ["x", "yz"]),
}
TENSORS = {
    "blk.1.engram_embd.weight": Tensor((264, 5), 24),
    "blk.1.engram_q.weight": Tensor((8, 4), 0),
    "blk.14.engram_embd.weight": Tensor((256, 3), 8),
}


def _header(**changes):
    return gguf_files.header([*VALUES.items()], [*TENSORS.items()], **changes)[0]


def _counts(tensors, keys):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


def _key(name, kind, rest):
    return gguf_files.text(name) + struct.pack("<I", kind) + rest


TWICE = [("k", ("uint8", 1)), ("k", ("uint8", 2))]
SAME = [("t", Tensor((2,), 0)), ("t", Tensor((2,), 0))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the magic and version needs"),
        (b"GGU", "the magic and version needs"),
        (b"version https://git-lfs", "is not a GGUF file: it starts with b'vers'"),
        (_header(version=1), "of version 1; versions 2 and 3"),
        (_header(version=4), "of version 4; versions 2 and 3"),
        (_header(version=3 << 24), "for big-endian machines"),
        (_counts(2**40, 1) + bytes(99), "1,099,511,627,776 tensors, more than"),
        (_counts(0, 2**63) + bytes(99), "metadata keys, more than"),
        (_counts(0, 60_000) + bytes(99), "a header of 60,000 metadata keys needs"),
        (_counts(0, 1) + struct.pack("<Q", 2**63) + bytes(99), "not 1 to 65,535"),
        (_counts(0, 1) + bytes(99), "key 1 of 1 has 0 bytes"),
        (_counts(0, 1) + _key(b"\xff", 0, b"1"), "key 1 of 1 is not UTF-8"),
        (_counts(0, 1) + _key("k", 13, bytes(9)), "the value of k is of the unknown type 13"),
        (_counts(0, 1) + _key("k", 8, struct.pack("<Q", 2**62)), "the value of k needs"),
        (_counts(0, 1) + _key("k", 9, struct.pack("<IQ", 4, 2**62)), "the value of k needs"),
        (_counts(0, 1) + _key("k", 9, struct.pack("<IQ", 8, 2**62)), "the value of k needs"),
        (_counts(0, 1) + _key("k", 9, struct.pack("<IQQ", 8, 1, 2**64 - 1)), "the value of k"),
        (_counts(0, 1) + _key("k", 9, struct.pack("<IQ", 9, 1) * 20), "the limit of 65,536 arrays"),
        (
            _counts(0, 1) + _key("k", 9, struct.pack("<IQ", 9, 2**40) + bytes(12 * 70_000)),
            "the limit of 65,536 arrays",
        ),
        (gguf_files.header(TWICE)[0], "the key k comes a second time"),
        (gguf_files.header([], SAME)[0], "the tensor t comes a second time"),
        (gguf_files.header([("general.alignment", ("uint32", 48))])[0], "got the uint32 48"),
        (gguf_files.header([("general.alignment", ("uint32", 0))])[0], "got the uint32 0"),
        (gguf_files.header([("general.alignment", ("uint64", 32))])[0], "got the uint64 32"),
        (gguf_files.header([("general.alignment", ("string", "\x1b"))])[0], r"string '\\x1b'"),
        (gguf_files.header([("general.alignment", Array("uint32", [32]))])[0], r"got uint32\[1\]"),
        (gguf_files.header([], [("t", Tensor((1,) * 5, 0))])[0], "5 dimensions, more than 4"),
        (gguf_files.header([], [("t", Tensor((2**32, 2**31), 0))])[0], "2\\^63 or more"),
        (gguf_files.header([], [("t", Tensor((2**63, 0), 0))])[0], "2\\^63 or more"),
        (gguf_files.header([], [(b"t\xff", Tensor((1,), 0))])[0], "tensor 1 of 1 is not UTF-8"),
    ],
    ids=lambda each: each if isinstance(each, str) else "header",
)
def test_what_cannot_be_read_is_refused_by_name(content, message, tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=message) as error:
        read_gguf(path)
    assert error.value.details["path"] == str(path)
    assert error.value.details["offset"] <= len(content)


def test_a_header_cut_short_anywhere_is_an_error(tmp_path):
    content = gguf_files.header([*VALUES.items()], [*TENSORS.items()])[0].rstrip(b"\0")
    path = tmp_path / "short.gguf"
    whole = read_gguf_header(Elsewhere(content, 10**6))
    for length in range(whole.header_bytes):
        with pytest.raises(CorruptFileError, match="elsewhere.gguf is damaged") as error:
            read_gguf_header(Elsewhere(content[:length], length))
        assert error.value.details["offset"] <= length
        if length % 64 == 0:
            path.write_bytes(content[:length])
            with pytest.raises(CorruptFileError, match="short.gguf is damaged"):
                read_gguf(path)
    # The header alone, without its tensors, is read.
    path.write_bytes(content.ljust(whole.header_bytes, b"\0"))
    assert {each.code for each in read_gguf(path).problems} == {"HALF_DONE"}


def _flipped(content, seed):
    chosen, changed = random.Random(seed), bytearray(content)
    for _ in range(chosen.choice((1, 1, 1, 2, 8))):
        changed[chosen.randrange(len(changed))] ^= 1 << chosen.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("file_bytes", [None, 200 * 10**9], ids=["true size", "200 GB"])
def test_flipped_bits_end_in_an_error_or_in_a_result(file_bytes):
    content, data_bytes = gguf_files.header([*VALUES.items()], [*TENSORS.items()])
    read = 0
    tracemalloc.start()
    try:
        for seed in range(400):
            source = Elsewhere(_flipped(content, seed), file_bytes or len(content) + data_bytes)
            tracemalloc.reset_peak()
            with suppress(CorruptFileError):
                found = read_gguf_header(source)
                for value in found.values.values():
                    if value.stop - value.start < 10**6 and value.kind != "array":
                        ask = value.texts if value.kind == "string" else value.numbers
                        (ask if value.is_array else value.scalar)()
                read += 1
            assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    assert 50 < read < 350


def test_a_walk_over_endless_strings_ends():
    start = _counts(0, 1) + _key("k", 9, struct.pack("<IQ", 8, 2**33))
    source = Elsewhere(start, 200 * 10**9)  # zeros: strings of no bytes
    with pytest.raises(CorruptFileError, match="100,000,000 bytes of header"):
        read_gguf_header(source)
    assert max(offset + count for offset, count in source.reads) <= 2**16
