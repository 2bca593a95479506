"""What a conversion wrote: its tensors, and the logits of its model."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

import engram
from engram.checkpoints.convert.convert import convert
from support import tiny

IDS = torch.randint(3, tiny.VOCAB, (2, 19), generator=torch.Generator().manual_seed(5))


def tensors(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def memory_of(folder):
    return {name: value for name, value in tensors(folder).items() if ".engram." in name}


def equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].shape == other[name].shape, name
        raw = [value.contiguous().flatten().view(torch.uint8) for value in (one[name], other[name])]
        assert torch.equal(*raw), name


def run(source, output, to="attached", **options):
    made = convert(source, output, to, **options).plan
    return made


def logits(folder, **options):
    with torch.no_grad():
        return engram.load(folder, **options)(IDS).logits
