"""Look-ups in GGUF: the file's own constants give our rows, decoded as the engine decodes them."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

import engram
from engram import look_up
from engram.addressing.text_rows import rows_of
from engram.addressing.tokenizer_files import load_tokenizer
from engram.checkpoints.gguf.gguf_addresses import gguf_addresses
from engram.checkpoints.gguf.gguf_memory import open_gguf
from engram.errors import (
    CorruptFileError,
    LayoutError,
    MismatchError,
    MissingFileError,
    UsageError,
)
from engram.storage.row_encodings.known_encodings import row_encoding
from support.cli import run
from support.gguf_memories import (
    BY_NAME,
    ROWS,
    addresses_of,
    facts_of,
    fill,
    write_filled,
    write_memory,
)
from support.paths import BPE, WORD

TEXT = "By the way, I am a fan of the Milky Way. By the way."
# With constants, and tables in the file.
STORED = sorted(
    name for name, it in BY_NAME.items() if it.table is not None and "primes" in it.facts
)


def decoded(name, own):
    """Decode rows without the toolkit where the gguf package knows the type."""
    kind = ROWS.get(name, ("Q8_0", 256))[0]
    if kind == "I8":
        encoding = "e4m3_e8m0_32_row264" if name == "gguf_ds4" else "e4m3_e8m0_32"
        return row_encoding(encoding).decode(*own)
    return gguf.quants.dequantize(own[0], gguf.GGMLQuantizationType[kind])


@pytest.mark.parametrize("name", STORED)
def test_rows_and_norms_are_those_of_the_memory(name, tmp_path):
    path = tmp_path / "model.gguf"
    addresses, tables = write_filled(path, name)
    found = look_up(path, TEXT, tokenizer=BPE)
    ids = load_tokenizer(BPE).tokenizer.encode(TEXT, add_special_tokens=False).ids
    expected = rows_of(addresses, ids)
    assert found.layout == addresses.layout.name
    assert [layer.layer_id for layer in found.layers] == addresses.layer_ids
    for slot, layer in enumerate(found.layers):
        assert np.array_equal(layer.rows, expected.rows[:, slot])
        rows = decoded(name, tables[layer.layer_id]).astype(np.float64)
        norms = np.linalg.norm(rows, axis=1)[layer.rows]
        np.testing.assert_allclose(layer.norms, norms, rtol=1e-6)
        assert layer.norms.max() > 0
    assert gguf_addresses(open_gguf(path)).fingerprint == addresses.fingerprint
    shown = run("lookup", path, TEXT, "-t", BPE)[1]
    assert f"({found.table_dtype})" in shown
    assert "Repeated" in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"primes": [5, 7]}, "primes has 2 entries"),
        ({"multipliers": [1, 3, 5]}, "multipliers has 3 entries"),
        ({"offsets": None}, "running sums"),
        ({"token_map": None}, "entries of the token map"),
        ({"pad_id": 10**6}, "pad id 1000000 is not"),
    ],
)
def test_constants_that_do_not_fit_are_refused(changes, message, tmp_path):
    addresses = addresses_of("gguf_llama")
    facts = facts_of(addresses, addresses.fill)
    wrong = {
        "offsets": [it + 1 for it in facts["offsets"]],
        "token_map": [-1, *facts["token_map"][1:]],
    }
    changes = {key: wrong[key] if value is None else value for key, value in changes.items()}
    path = tmp_path / "model.gguf"
    write_memory(path, "gguf_llama", changed={**facts, **changes})
    with pytest.raises(MismatchError, match=message):
        look_up(path, TEXT, tokenizer=BPE)


def test_a_table_that_is_too_short_is_refused(tmp_path):
    addresses = addresses_of("gguf_ds4")
    facts = facts_of(addresses, addresses.fill)
    path = tmp_path / "model.gguf"
    write_memory(path, "gguf_ds4", changed={**facts, "rows": [it - 1 for it in facts["rows"]]})
    with pytest.raises(MismatchError, match=r"its table has"):
        look_up(path, TEXT, tokenizer=BPE)


def test_what_a_look_up_needs_is_named(tmp_path):
    path = tmp_path / "model.gguf"
    write_filled(path, "gguf_ds4")
    with pytest.raises(MissingFileError, match="holds no tokenizer") as error:
        look_up(path, TEXT)
    assert "-t TOKENIZER" in error.value.hint
    with pytest.raises(MismatchError, match="not the one that the memory was made with"):
        look_up(path, TEXT, tokenizer=WORD)
    with pytest.raises(UsageError, match="leave -c"):
        look_up(path, TEXT, config="gpt2", tokenizer=BPE)
    for fact in ("multipliers", "primes", "token_map", "pad_id"):
        write_memory(path, "gguf_llama", without=(fact,))
        with pytest.raises(MissingFileError, match=f"lacks .*{fact}"):
            look_up(path, TEXT, tokenizer=BPE)
    write_memory(path, "gguf_deepstrix")
    with pytest.raises(MissingFileError, match="lacks primes"):
        look_up(path, TEXT, tokenizer=BPE)


def test_rows_that_an_engine_refuses_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_filled(path, "gguf_ds4", encoding="conversion_underway")
    with pytest.raises(CorruptFileError, match="conversion did not end"):
        look_up(path, TEXT, tokenizer=BPE)
    write_filled(path, "gguf_ds4", encoding="e5m2_e8m0_32_row264")
    with pytest.raises(LayoutError, match="unknown encoding of rows"):
        look_up(path, TEXT, tokenizer=BPE)
    write_filled(path, "gguf_ds4")
    tables = open_gguf(path).tables
    fill(path, {tables[0].values.name: np.full((tables[0].rows, 264), 255, np.uint8)})
    with pytest.raises(CorruptFileError, match="row"):
        look_up(path, TEXT, tokenizer=BPE)


def test_the_answer_for_programs(tmp_path):
    path = tmp_path / "model.gguf"
    write_filled(path, "gguf_mx")
    answer = run("lookup", path, "the way", "-t", BPE, "--json").json()
    assert answer["schema"] == "engram.lookup/1"
    assert (answer["layout"], answer["table_dtype"]) == ("deepseek_v41", "MXFP4")
    assert answer["heads"] == 2
    assert engram.look_up(path, "the way", tokenizer=BPE).to_dict() == {**answer}
