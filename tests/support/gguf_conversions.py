"""What conversions of GGUF files are compared by, and files with other values of keys."""

from __future__ import annotations

from functools import partial

from engram import look_up
from engram.checkpoints.verify.verify import verify
from engram.storage.gguf_headers import read_gguf
from engram.storage.gguf_writer import NewTensor, header_of, padded_chunks
from support.paths import BPE

TEXT = "the lookup of an n-gram, the lookup"


def layers_of(path, tokenizer=BPE):
    """What a look-up shows of every layer: rows, norms and repeated rows."""
    return look_up(path, TEXT, tokenizer=tokenizer).to_dict()["layers"]


def demand_right(path, **options):
    checks = list(verify(path, **options))
    assert [check for check in checks if check.ok is False] == []


def table_losses(made, part="table"):
    return [parts[part].max_error for parts in made.losses().values()]


def with_values(path, output, **changed):
    """Write a file anew with other values of its memory's keys; None leaves a key out."""
    content = read_gguf(path)
    values = dict(content.values)
    for name, value in changed.items():
        key = f"deepseek41.engram.{name}"
        values.pop(key) if value is None else values.update({key: value})
    tensors = [
        NewTensor(it.name, it.dims, it.type_id, [partial(it.read, 0, it.data_bytes)])
        for it in content.tensors.values()
    ]
    alignment = content.alignment
    parts = [header_of(values, tensors, alignment)]
    parts += [make() for make in padded_chunks(tensors, alignment)]
    output.write_bytes(b"".join(parts))
    return output
