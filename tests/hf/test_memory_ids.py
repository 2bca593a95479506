"""Token ids to hash ids inside a model: on other devices, from several threads."""

from __future__ import annotations

import pytest
import torch

import engram
from engram.errors import MismatchError
from engram.hf.ids import MemoryIds
from support import tiny


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return engram.load(tiny.family_folders("llama", tmp_path_factory)[1]).get_decoder()


def test_the_map_may_be_on_another_device_than_the_ids(decoder):
    """The first layer with a memory may be on another GPU than the embedding."""
    ids = torch.randint(3, tiny.VOCAB, (2, 7))
    memory_ids = MemoryIds(decoder.engram_ids.addresses)
    here = memory_ids(ids, decoder.engram_token_map, None, None)
    there = memory_ids(ids.to("meta"), decoder.engram_token_map, None, None)
    assert there.device.type == "meta"
    assert (there.shape, there.dtype) == (here.shape, here.dtype)


def test_another_thread_may_check_a_map_at_any_time(decoder):
    """It then forgets the hasher of the map before, between any two lines of this thread."""

    class Forgetful(MemoryIds):
        _hasher = property(lambda self: None, lambda self, hasher: None)

    ids = torch.randint(3, tiny.VOCAB, (2, 7))
    addresses, token_map = decoder.engram_ids.addresses, decoder.engram_token_map
    got = Forgetful(addresses)(ids, token_map, None, None)
    assert torch.equal(got, MemoryIds(addresses)(ids, token_map, None, None))


def test_a_map_in_the_place_of_one_that_is_gone_is_checked(decoder):
    """Python gives the id of an object that is gone to another one."""
    memory_ids = MemoryIds(decoder.engram_ids.addresses)
    for _ in range(20):
        good = decoder.engram_token_map.clone()
        memory_ids.check(good)
        del good
        with pytest.raises(MismatchError, match="does not belong"):
            memory_ids.check(torch.ones_like(decoder.engram_token_map))
