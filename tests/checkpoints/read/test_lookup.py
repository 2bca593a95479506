"""Looking up a text in files gives the rows that the model itself would read."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import engram
from engram.addressing.tokenizer_files import load_tokenizer
from engram.checkpoints.attach import attach
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.read.lookup import look_up
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.errors import InputError, MismatchError, MissingFileError
from engram.tensor_names import TABLE
from support import tiny
from support.cli import run, run_apart
from support.layouts import LAYOUTS, random_memory
from support.paths import BPE
from support.qwen import random_qwen
from support.shards import write_shard

TEXT = "The tables are read once per token. The tables are read twice."


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    return {
        layout: random_memory(base, tmp_path_factory.mktemp(layout) / "attached", layout)
        for layout in LAYOUTS
    }


def seen_by_the_model(folder, text=TEXT):
    """Row ids and rows that the tables of a loaded model are asked for, by layer."""
    model, seen = engram.load(folder), {}
    for layer_id, layer in enumerate(model.get_decoder().engram_layers):
        if hasattr(layer, "engram"):
            layer.engram.multi_head_embedding.embedding.register_forward_hook(
                lambda module, args, out, layer_id=layer_id: seen.update({layer_id: (args[0], out)})
            )
    ids = load_tokenizer(folder).tokenizer.encode(text, add_special_tokens=False).ids
    with torch.no_grad():
        model(torch.tensor([ids]))
    return ids, seen


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "fp8", "int8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_and_norms_are_those_of_the_model(folders, layout, dtype, tmp_path):
    convert(folders[layout], tmp_path / "x", dtype=dtype)
    found = look_up(tmp_path / "x", TEXT)
    ids, seen = seen_by_the_model(tmp_path / "x")
    assert [token.token_id for token in found.tokens] == ids
    assert found.table_dtype == dtype
    assert [layer.layer_id for layer in found.layers] == [2, 1]
    for layer in found.layers:
        row_ids, rows = seen[layer.layer_id]
        assert np.array_equal(layer.rows.reshape(len(ids), -1), row_ids[0].numpy())
        norms = rows[0].double().norm(dim=-1).numpy()
        assert np.allclose(layer.norms.reshape(len(ids), -1), norms, rtol=1e-6)
        offsets = layer.rows - layer.hash_ids
        assert (offsets == offsets[0]).all()
        assert layer.rows_read == len(np.unique(row_ids.numpy()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_names_and_adapters(folders, layout, tmp_path):
    convert(folders[layout], tmp_path / "published", layout)
    tokenizer = load_tokenizer(BPE)
    found = look_up(tmp_path / "published", TEXT, tokenizer=tokenizer)
    expected = look_up(folders[layout], TEXT)
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert np.array_equal(one.rows, other.rows)
        assert np.array_equal(one.norms, other.norms)
    with pytest.raises(MissingFileError, match=r"no tokenizer\.json"):
        look_up(tmp_path / "published", TEXT)


def test_adapters(tmp_path_factory, tmp_path):
    base = tiny.family_folders("llama", tmp_path_factory)[0]
    attach.attach(base, tiny.memory_config(), tmp_path / "adapter", init="paper", adapter=True)
    attach.attach(base, tiny.memory_config(), tmp_path / "whole", init="paper")
    found = look_up(tmp_path / "adapter", TEXT, tokenizer=load_tokenizer(BPE))
    assert np.array_equal(found.layers[0].norms, look_up(tmp_path / "whole", TEXT).layers[0].norms)


def test_a_checkpoint_of_transformers_own_qwen(tmp_path):
    model, ids = random_qwen()
    model.save_pretrained(tmp_path)
    vocab = {f"t{i}": i for i in range(96)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    row = ids[0]
    found = look_up(tmp_path, " ".join(f"t{i}" for i in row.tolist()))
    assert [token.token_id for token in found.tokens] == row.tolist()
    seen = {}
    for layer_id in (1, 2):
        model.model.layers[layer_id].ple.ple_embedding.register_forward_hook(
            lambda module, args, out, layer_id=layer_id: seen.update({layer_id: out})
        )
    model(ids[:1])
    memory = open_checkpoint(tmp_path)
    for layer in found.layers:
        table = memory.layers[layer.layer_id][TABLE]
        rows = table.read_rows(layer.rows.reshape(-1)).reshape(len(row), -1)
        assert np.array_equal(rows, seen[layer.layer_id][0].double().numpy())


def test_ngrams_that_share_rows_are_told(folders):
    found = look_up(folders["demo"], TEXT)
    for order, ngrams in found.repeated.items():
        for ngram in ngrams:
            for layer in found.layers:
                rows = layer.rows[list(ngram.positions), order - 2]
                assert (rows == rows[0]).all()
    assert "tables" in {ngram.text.strip() for ngram in found.repeated[4]}
    for layer in found.layers:
        assert layer.shared
        for shared in layer.shared:
            texts = [ngram.text for ngram in shared.ngrams]
            assert len(set(texts)) == len(texts) > 1
            for ngram in shared.ngrams:
                rows = layer.rows[list(ngram.positions), shared.order - 2, shared.head]
                assert (rows == shared.row).all()
        told = {(shared.order, shared.head, shared.row) for shared in layer.shared}
        for i, order in enumerate(found.orders):
            for head in range(2):
                repeats = [n.positions[1:] for n in found.repeated[order]]
                again = {position for positions in repeats for position in positions}
                rows = [r for t, r in enumerate(layer.rows[:, i, head].tolist()) if t not in again]
                assert {r for r in rows if rows.count(r) > 1} == {
                    row for o, h, row in told if (o, h) == (order, head)
                }


def test_another_tokenizer_is_refused(folders, local_word):
    with pytest.raises(MismatchError, match="not the one that the memory was made with"):
        look_up(folders["demo"], "a b", tokenizer=load_tokenizer(local_word))
    with pytest.raises(InputError, match="no tokens"):
        look_up(folders["demo"], "")


def test_tokens_that_were_added_since_do_not_matter(folders, tmp_path):
    tokenizer = load_tokenizer(folders["demo"]).tokenizer
    tokenizer.add_tokens(["<new>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = look_up(folders["demo"], TEXT, tokenizer=tmp_path)
    assert found.to_dict() == look_up(folders["demo"], TEXT).to_dict()


def test_only_the_rows_are_read_and_no_model_is_loaded(tmp_path, monkeypatch):
    """The table has 64 GB by name; torch stays out."""
    folder = tmp_path / "big"
    base = tiny.base_model("llama", tmp_path / "base")
    config = tiny.memory_config(engram_table_size=[2 * 670_000_000] * 3, layer_ids=[2])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**12))
    plan = attach.attach(base, config, folder, init="paper", dry_run=True).plan
    tensors = [tensor for _, shard in plan.shards for tensor in shard]
    (table,) = [tensor for tensor in tensors if tensor.name.endswith(TABLE)]
    others = [tensor for tensor in tensors if tensor is not table]
    folder.mkdir()
    write_shard(folder / "a.safetensors", others)
    write_shard(folder / "b.safetensors", [dataclasses.replace(table, chunks=[])])
    with (folder / "b.safetensors").open("r+b") as shard:
        shard.truncate(shard.seek(0, 2) + table.size_bytes)
    weight_map = {tensor.name: "a.safetensors" for tensor in others} | {table.name: "b.safetensors"}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(plan.model_config))
    shutil.copyfile(BPE / "tokenizer.json", folder / "tokenizer.json")
    tell = """
import atexit, sys
from pathlib import Path
def tell():
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    print(peak, *{"torch", "transformers", "numba"} & set(sys.modules), file=sys.stderr)
atexit.register(tell)
"""
    done = run_apart("lookup", folder, TEXT, "--json", before=tell)
    assert done.json()["layers"][0]["table_rows"] > 4e9
    (peak,) = done.stderr.splitlines()[-1].split()
    assert int(peak) < 300_000  # kB


def test_the_command(folders):
    words = ("lookup", folders["demo"], TEXT)
    answer = run(*words, "--json").json()
    assert answer["schema"] == "engram.lookup/1"
    tokens = len(answer["tokens"])
    for layer in answer["layers"]:
        for key in ("rows", "hash_ids", "norms"):
            assert np.shape(layer[key]) == (tokens, 3, 2)
    shown = run(*words).ended().stdout
    assert f"Layer 2: {answer['layers'][0]['rows_read']} of" in shown
    assert "Shared: row" in shown
    assert "Repeated: " in shown
    rows, norms = (answer["layers"][1][key][3][1] for key in ("rows", "norms"))
    assert all(f"{row}:{norm:.3g}" in shown for row, norm in zip(rows, norms, strict=True))


def test_a_line_is_folded_on_a_terminal_and_whole_in_a_pipe(folders, monkeypatch):
    from engram_cli.lookup import _show
    from engram_cli.output import _draw

    found = look_up(folders["demo"], TEXT)
    layer = found.layers[0]
    words = [
        f"{row}:{norm:.3g}"
        for row, norm in zip(layer.rows[0, 0].tolist(), layer.norms[0, 0].tolist(), strict=True)
    ]
    first = _draw(_show(found), wrap=True).splitlines()[2]
    assert [word for word in first.split() if ":" in word] == words
    monkeypatch.setattr("engram_cli.output.PIPE_WIDTH", 50)  # as wide as a narrow terminal
    folded = _draw(_show(found), wrap=True)
    assert all(len(line) <= 50 for line in folded.splitlines())
    assert all(word in folded for word in words)
