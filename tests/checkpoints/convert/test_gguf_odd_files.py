"""GGUF files with constants that were cut, emptied or are of others: refused, or mended."""

from __future__ import annotations

import pytest

from engram import look_up
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.convert.gguf_repair import repair_gguf
from engram.errors import (
    InputError,
    MismatchError,
    MissingFileError,
)
from engram.storage.gguf_headers import read_gguf
from engram.storage.gguf_writer import NewValue
from support.gguf_conversions import TEXT, demand_right, layers_of, with_values
from support.gguf_faults import codes
from support.gguf_memories import write_filled
from support.paths import BPE, WORD


def test_a_file_that_appears_during_a_repair_stays(attached, tmp_path):
    convert(attached, tmp_path / "whole.gguf", "gguf_llama")
    zero = with_values(
        tmp_path / "whole.gguf", tmp_path / "zero.gguf", head_count=NewValue("uint32", 0)
    )
    output = tmp_path / "late.gguf"
    with pytest.raises(InputError, match="already there"):
        repair_gguf(
            zero,
            output,
            tokenizer=BPE,
            progress=lambda done, total: output.write_text("precious"),
        )
    assert output.read_text() == "precious"


@pytest.mark.parametrize("to", ["gguf_llama", "gguf_ds4"])
def test_a_token_map_that_was_cut_is_refused_and_mended(attached, to, tmp_path):
    whole, cut = tmp_path / "whole.gguf", tmp_path / "cut.gguf"
    convert(attached, whole, to)
    place = read_gguf(whole).values["deepseek41.engram.token_map"]
    half = [int(number) for number in place.numbers()[: place.count // 2]]
    order = {number: at for at, number in enumerate(dict.fromkeys(half))}
    values = NewValue(place.kind, [order[number] for number in half])
    with_values(whole, cut, token_map=values)
    for read in (
        lambda: convert(cut, tmp_path / "x.gguf", "gguf_tarruda"),
        lambda: look_up(cut, TEXT, tokenizer=BPE),
    ):
        with pytest.raises(MismatchError, match="token map has"):
            read()
    with pytest.raises(MissingFileError, match="no right token map"):
        repair_gguf(cut, tmp_path / "x.gguf")
    repair_gguf(cut, tmp_path / "mended.gguf", tokenizer=BPE)
    demand_right(tmp_path / "mended.gguf", tokenizer=BPE)
    assert layers_of(tmp_path / "mended.gguf") == layers_of(whole)
    one, other = (read_gguf(path).values for path in (whole, tmp_path / "mended.gguf"))
    for name in ("token_map", "multipliers"):
        assert (
            one[f"deepseek41.engram.{name}"].packed() == other[f"deepseek41.engram.{name}"].packed()
        )


def test_another_tokenizer_mends_nothing(attached, tmp_path):
    whole = tmp_path / "whole.gguf"
    convert(attached, whole, "gguf_llama")
    bare = with_values(whole, tmp_path / "bare.gguf", token_map=None)
    for path in (whole, bare):
        with pytest.raises(MismatchError):
            repair_gguf(path, tmp_path / "x.gguf", tokenizer=WORD)
    assert repair_gguf(whole, tmp_path / "x.gguf", tokenizer=BPE).files == ()
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("name", ["primes", "multipliers", "token_map", "layer_ids", "offsets"])
def test_a_list_without_entries_is_missing(attached, name, tmp_path):
    convert(attached, tmp_path / "whole.gguf", "gguf_llama")
    kind = read_gguf(tmp_path / "whole.gguf").values[f"deepseek41.engram.{name}"].kind
    path = with_values(
        tmp_path / "whole.gguf", tmp_path / "empty.gguf", **{name: NewValue(kind, [])}
    )
    assert "CONST_MISSING" in codes(path)


@pytest.mark.parametrize("name", ["head_count", "key_length", "max_ngram_size"])
def test_sizes_of_zero_are_wrong(attached, name, tmp_path):
    convert(attached, tmp_path / "whole.gguf", "gguf_llama")
    path = with_values(
        tmp_path / "whole.gguf", tmp_path / "zero.gguf", **{name: NewValue("uint32", 0)}
    )
    assert "CONST_WRONG" in codes(path)
    assert repair_gguf(path, tmp_path / "mended.gguf", tokenizer=BPE).written
    assert layers_of(tmp_path / "mended.gguf") == layers_of(tmp_path / "whole.gguf")


def test_constants_that_no_rule_gives_are_refused_with_the_repair(tmp_path):
    write_filled(tmp_path / "l.gguf", "gguf_llama", multipliers=[1, 3, 5, 7, 9, 11, 13, 15])
    with pytest.raises(MismatchError) as error:
        convert(tmp_path / "l.gguf", tmp_path / "x.gguf", "gguf_ds4")
    assert "--repair" in error.value.hint
