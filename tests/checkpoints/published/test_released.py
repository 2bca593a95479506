"""DeepSeek-V4.1 as released, over sparse files of true size: reported, verified, broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engram.addressing.primes import head_primes
from engram.checkpoints.read.inspect import inspect_checkpoint
from engram.config.templates import load_template
from engram.errors import ConfigError, CorruptFileError, MissingFileError
from support import sparse_folder
from support.checked import failed, verdicts
from support.cli import run, run_apart
from support.paths import BPE
from support.sparse_folder import V41_CONFIG, V41_FLAT, V41_TEXT, v41_layer

ROWS = [384_006_168, 384_016_682]
SHARDS = ("model-00047-of-00048.safetensors", "model-00048-of-00048.safetensors")
GIB = 2**30


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return sparse_folder.v41(tmp_path_factory.mktemp("released") / "v41")


def v41_config(**changes):
    return {**V41_CONFIG, "text_config": {**V41_TEXT, **changes}}


def small(folder, config=None, layers=None, **changes):
    """Write a memory of two small layers for the tokenizer with 544 ids, 447 compressed."""
    text = {
        **V41_TEXT,
        **{"hidden_size": 64, "hc_mult": 2, "vocab_size": 544, "engram_vocab_size": 50},
        **{"engram_n_heads": 2, "engram_head_dim": 64, "engram_max_ngram_size": 3},
        **{"engram_num_embeddings": [240, 306], "engram_compressed_vocab_size": 447},
        **changes,
    }
    config = config or {**V41_CONFIG, "text_config": text}
    layers = layers or {1: 240, 14: 306}
    shards = {
        f"model-{i}.safetensors": {
            f"layers.{layer}.engram.embed.weight": ("F8_E4M3", (rows, 64)),
            f"layers.{layer}.engram.embed.scale": ("F8_E8M0", (rows, 2)),
            f"layers.{layer}.engram.wkv.weight": ("F8_E4M3", (192, 256)),
            f"layers.{layer}.engram.wkv.scale": ("F8_E8M0", (6, 8)),
            f"layers.{layer}.engram.q_weight": ("BF16", (2, 64)),
            f"layers.{layer}.engram.k_weight": ("BF16", (2, 64)),
        }
        for i, (layer, rows) in enumerate(layers.items())
    }
    return sparse_folder.write(folder, config, shards)


def test_report_is_exact_to_the_byte(release):
    report = run("report", release, "--tp", 4, "--json").json()
    assert report["schema"] == "engram.report/1"
    assert (report["target_kind"], report["layout"]) == ("released", "deepseek_v41")
    assert [layer["rows"] for layer in report["layers"]] == ROWS
    assert [layer["hash_rows"] for layer in report["layers"]] == ROWS
    assert [layer["table_bytes"] for layer in report["layers"]] == [264 * rows for rows in ROWS]
    totals = report["totals"]
    assert totals["table_params"] == 196_613_849_600
    assert totals["table_bytes"] == 202_758_032_400
    assert totals["rank_table_bytes"] == 264 * (96_001_542 + 96_004_171)
    assert round(totals["rank_table_bytes"] / GIB, 2) == 47.21
    assert totals["dense_params"] == 2 * (25600 * 6144 + 2 * 4 * 5120)
    assert totals["dense_bytes"] == 2 * (157_286_400 + 153_600 + 2 * 40_960)
    assert (totals["base_params"], totals["base_bytes"]) == (129280 * 5120, 129280 * 5120 * 2)
    assert {row["kind"] for row in report["rows"]} == {"exact"}
    assert report["table_dtype"] == "fp8"


def test_it_is_what_the_template_says(release):
    template = run("report", "deepseek-v4.1-flash", "--json").json()
    report = run("report", release, "--json").json()
    for key in ("rows", "hash_rows", "table_params", "dense_params", "table_bytes", "layer_id"):
        assert [layer[key] for layer in report["layers"]] == [
            layer[key] for layer in template["layers"]
        ]
    config = inspect_checkpoint(release).config
    expected = load_template("deepseek-v4.1-flash").to_dict()
    assert {**config.to_dict(), "tokenizer": expected["tokenizer"]} == expected


def test_reads_and_what_a_speed_asks(release):
    words = ("report", release, "--tokens-per-second", 10_000)
    reads = run(*words, "--json").json()["reads"]
    assert (reads["rows_per_token"], reads["rows_per_token_and_layer"]) == (48, 24)
    assert reads["bytes_per_token"] == 12_672
    assert reads["disk_reads_per_token"] == 96
    pages = reads["disk_pages_per_token"]
    # A row of 256 bytes that begins anywhere but at multiples of 256 straddles 1 page end in 16.
    assert (pages["least"], pages["mean"], pages["most"]) == (96, 96 + 48 / 16, 144)
    assert pages["kind"] == "exact"
    rate = reads["rate"]
    assert (rate["rows_per_second"], rate["iops"]) == (480_000, 960_000)
    assert rate["bytes_per_second"] == 126_720_000
    assert rate["disk_bytes_per_second"] == 99 * 4096 * 10_000
    assert "960,000 IOPS" in run(*words).ended().stdout


def test_pages_of_a_template_may_lie_anywhere():
    reads = run("report", "engram-27b", "--dtype", "bf16", "--json").json()["reads"]
    pages = reads["disk_pages_per_token"]
    assert (pages["least"], pages["most"], pages["kind"]) == (32, 64, "estimated")
    assert pages["mean"] == 32 * (1 + 159 / 4096)
    assert reads["rate"] is None


def test_what_fits_where(release):
    words = ("report", release, "--device-memory", "80GiB", "--host-memory", "256GiB")
    assert run(*words, "--json").json()["tables"] == "cpu"  # where they fit
    report = run(*words, "--tables", "gpu", "--json").json(5)
    assert (report["fits_device"], report["fits_host"], report["fits"]) == (False, True, False)
    fits = {home["tables"]: (home["fits_device"], home["fits_host"]) for home in report["homes"]}
    assert fits == {"gpu": (False, True), "cpu": (True, True), "disk": (True, True)}
    on_host = run(*words, "--tables", "cpu", "--tp", 4, "--json").json()
    assert on_host["fits"] is True
    host_bytes = {home["tables"]: home["host_bytes"] for home in on_host["homes"]}
    assert host_bytes["cpu"] == 4 * 264 * (96_001_542 + 96_004_171)
    small_host = ("report", release, "--tables", "cpu", "--host-memory", "128GiB")
    assert run(*small_host, "--json").json(5)["fits"] is False
    assert "no, 60.83 GiB of host memory are missing" in run(*small_host).ended(5).stdout


def test_training_by_optimiser(release):
    report = run("report", release, "--tp", 8, "--json").json()
    rows = {row["optimizer"]: row for row in report["training"]}
    assert list(rows) == [
        *("adam", "momentum", "sgd", "rowwise-adagrad", "rowwise-rmsprop", "sparse-adam"),
        "sparse-momentum",
    ]
    params = 196_613_849_600
    assert rows["adam"]["table_bytes"] == 16 * params
    assert rows["momentum"]["table_bytes"] == 12 * params
    assert rows["rowwise-adagrad"]["table_state_bytes"] == 4 * sum(ROWS)
    assert rows["rowwise-rmsprop"] == {**rows["rowwise-adagrad"], "optimizer": "rowwise-rmsprop"}
    assert rows["sparse-momentum"]["table_state_bytes"] == 4 * params
    assert rows["sparse-adam"]["table_state_bytes"] == 2 * 4 * params
    assert all(row["rank_bytes"] < row["total_bytes"] / 4 for row in rows.values())
    text = (
        run("report", release, "--tp", 8, "--mode", "training", "--train", "memory").ended().stdout
    )
    assert "each rank" in text
    assert "trained in bfloat16" in text


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_in_little_time_and_memory(release):
    tell = """
import atexit, sys, time
from pathlib import Path
def tell():
    seconds = time.process_time()  # of this process: others may keep the machine busy
    kilobytes = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    slow = {"torch", "transformers", "numba", "tokenizers"} & set(sys.modules)
    print(seconds, kilobytes, *slow, file=sys.stderr)
atexit.register(tell)
"""
    for command in ("report", "verify"):
        done = run_apart(command, release, "--json", before=tell).ended()
        seconds, kilobytes, *slow = done.stderr.split()
        assert float(seconds) < 2
        assert int(kilobytes) < 300 * 1024
        assert slow == []


def test_verified(release):
    checks = verdicts(release)
    right = ("family", "files", "tensors", "scales", "sizes", "rows")
    assert {name: check.ok for name, check in checks.items()} == {
        **dict.fromkeys(right, True),
        **dict.fromkeys(("constants", "tokenizer", "values")),
    }
    assert "76632096046245" in checks["constants"].detail
    assert "67716810739261" in checks["constants"].detail
    answer = run("verify", release, "--json").json()
    assert answer["ok"] is True
    assert "wired right; 3 things could not be checked" in run("verify", release).ended().stdout


@pytest.mark.parametrize(
    ("prefix", "renames"),
    [
        ("", {}),
        ("model.", {}),
        ("language_model.model.", {"embed.": "embed_tokens.", ".scale": ".weight_scale_inv"}),
    ],
)
def test_names_of_other_projects(tmp_path, prefix, renames):
    def rename(name):
        for old, new in renames.items():
            name = name.replace(old, new)
        return prefix + name

    shards = {}
    for file, layer, rows in zip(SHARDS, (1, 14), ROWS, strict=True):
        tensors = {rename(name): info for name, info in v41_layer(layer, rows).items()}
        if renames:  # vLLM keeps the scales as plain bytes
            tensors = {n: ("U8" if t == "F8_E8M0" else t, s) for n, (t, s) in tensors.items()}
        shards[file] = tensors
    folder = sparse_folder.write(tmp_path, V41_CONFIG, shards)
    assert failed(folder) == {}
    found = inspect_checkpoint(folder)
    tables = [part for part in found.weights if part.group == "table"]
    assert [part.rows for part in tables] == ROWS
    assert sum(part.size_bytes for part in tables) == 202_758_032_400
    lost = next(name for name in shards[SHARDS[0]] if "embed" in name and "scale" in name)
    del shards[SHARDS[0]][lost]
    sparse_folder.write(tmp_path, V41_CONFIG, shards)
    assert failed(folder)["scales"] == f"{lost} is missing: the values are fp8"


def test_the_config_of_the_inference_code(tmp_path):
    shards = dict(zip(SHARDS, map(v41_layer, (1, 14), ROWS), strict=True))
    folder = sparse_folder.write(tmp_path, None, shards)
    assert "config" in failed(folder)
    with pytest.raises(ConfigError, match="engram_n_heads"):
        inspect_checkpoint(folder)
    (folder / "inference").mkdir()
    (folder / "inference" / "config.json").write_text(json.dumps(V41_FLAT))
    assert failed(folder) == {}
    (folder / "config.json").write_text(json.dumps(V41_FLAT))
    assert inspect_checkpoint(folder).config == inspect_checkpoint(folder).config
    assert inspect_checkpoint(folder).config.hidden_size == 5120


def test_tables_packed_to_four_bits(tmp_path):
    shards = dict(zip(SHARDS, map(v41_layer, (1, 14), ROWS), strict=True))
    for layer, (file, rows) in zip((1, 14), zip(SHARDS, ROWS, strict=True), strict=True):
        shards[file][f"layers.{layer}.engram.embed.weight"] = ("U8", (rows, 128))
    folder = sparse_folder.write(tmp_path, V41_CONFIG, shards)
    report = run("report", folder, "--json").json()
    assert report["table_dtype"] == "fp4_e8m0_32"
    assert report["totals"]["table_params"] == 196_613_849_600
    assert report["totals"]["table_bytes"] == 136 * sum(ROWS)
    assert failed(folder) == {}


def test_tables_in_bfloat16_need_no_scales(tmp_path):
    shards = dict(zip(SHARDS, map(v41_layer, (1, 14), ROWS), strict=True))
    for layer, (file, rows) in zip((1, 14), zip(SHARDS, ROWS, strict=True), strict=True):
        shards[file][f"layers.{layer}.engram.embed.weight"] = ("BF16", (rows, 256))
        del shards[file][f"layers.{layer}.engram.embed.scale"]
    folder = sparse_folder.write(tmp_path, V41_CONFIG, shards)
    assert failed(folder) == {}
    tables = [part for part in inspect_checkpoint(folder).weights if part.group == "table"]
    assert sum(part.size_bytes for part in tables) == 2 * 196_613_849_600


BROKEN = {
    "swapped": ("tensors", "layers.1.engram.embed.weight and layers.14.engram.embed.weight are sw"),
    "rows": ("tensors", "layers.1.engram.embed.weight: [384,006,167 x 256], and the config calls"),
    "scale": ("scales", "layers.14.engram.embed.scale is missing: the values are fp8"),
    "scale shape": ("scales", "layers.14.engram.embed.scale is [384016682, 4], not [384016682, 8]"),
    "wkv scale": ("scales", "layers.1.engram.wkv.scale is [25600, 192], not [800, 192]"),
    "tensor": ("tensors", "layers.14.engram.k_weight is missing"),
    "unwired": ("tensors", "layers.14.engram.value_proj.bias is not wired"),
    "dtype": ("tensors", "layers.1.engram.q_weight is I64"),
    "other layer": ("tensors", "layers.15.engram.embed.weight is missing"),
    "width": ("tensors", "[384,006,168 x 256], and the config calls for [384,006,168 x 128]"),
    "hidden": ("tensors", "wkv.weight: [25,600 x 6144], and the config calls for [20,480 x 6144]"),
    "stated rows": ("rows", "engram_num_embeddings is [384006168, 384016681]"),
    "stated order": ("rows", "is in another order than layers 1, 14"),
    "base": ("rows", "primes of layers 1, 14 sum to"),
    "no such config": ("config", "engram_head_dim: missing"),
    "odd config": ("config", "engram_n_heads: 'eight' is not a whole number"),
    "absurd config": ("config", "engram_max_ngram_size"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_in_one_way(tmp_path, case):
    first, second = v41_layer(1, ROWS[0]), v41_layer(14, ROWS[1])
    changes = {
        "other layer": {"engram_layer_ids": [1, 15]},
        "width": {"engram_head_dim": 128},
        "hidden": {"hidden_size": 4096},
        "stated rows": {"engram_num_embeddings": [ROWS[0], ROWS[1] - 1]},
        "stated order": {"engram_num_embeddings": ROWS[::-1]},
        "base": {"engram_vocab_size": 15_000_000},
        "no such config": {"engram_head_dim": None},
        "odd config": {"engram_n_heads": "eight"},
        "absurd config": {"engram_max_ngram_size": 2**40},
    }
    if case == "swapped":
        first, second = v41_layer(1, ROWS[1]), v41_layer(14, ROWS[0])
    elif case == "rows":
        first = v41_layer(1, ROWS[0] - 1)
    elif case == "scale":
        del second["layers.14.engram.embed.scale"]
    elif case == "scale shape":
        second["layers.14.engram.embed.scale"] = ("F8_E8M0", (ROWS[1], 4))
    elif case == "wkv scale":
        first["layers.1.engram.wkv.scale"] = ("F8_E8M0", (25600, 192))
    elif case == "tensor":
        del second["layers.14.engram.k_weight"]
    elif case == "unwired":
        second["layers.14.engram.value_proj.bias"] = ("BF16", (5120,))
    elif case == "dtype":
        first["layers.1.engram.q_weight"] = ("I64", (4, 5120))
    shards = dict(zip(SHARDS, (first, second), strict=True))
    folder = sparse_folder.write(tmp_path, v41_config(**changes.get(case, {})), shards)
    name, words = BROKEN[case]
    assert words in failed(folder)[name]
    answer = run("verify", folder, "--json").json(5)
    assert answer["ok"] is False
    assert any(words in check["detail"] for check in answer["checks"] if check["ok"] is False)


def test_files_that_are_torn_or_gone(tmp_path):
    folder = sparse_folder.v41(tmp_path / "v41")
    shard = folder / SHARDS[1]
    size = shard.stat().st_size
    with shard.open("r+b") as file:
        file.truncate(size - 1)
    checks = verdicts(folder)
    assert checks["files"].ok is False
    assert SHARDS[1] in checks["files"].detail
    assert f"in a file of {size - 1}" in checks["files"].detail
    assert (checks["tensors"].ok, checks["scales"].ok) == (None, True)
    with pytest.raises(CorruptFileError, match="model-00048"):
        inspect_checkpoint(folder)
    shard.unlink()
    assert failed(folder) == {"files": f"{SHARDS[1]} is not there, and the index names it."}
    with pytest.raises(MissingFileError, match="lacks model-00048"):
        inspect_checkpoint(folder)
    run("verify", folder).ended(5)
    run("report", folder).ended(4)
    shutil.copy(folder / "config.json", shard)
    assert "model-00048" in failed(folder)["files"]


def test_an_index_that_lies(tmp_path):
    folder = sparse_folder.v41(tmp_path / "v41")
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    weight_map["layers.14.engram.wkv.bias"] = SHARDS[1]
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert "layers.14.engram.wkv.bias should be in" in failed(folder)["files"]
    weight_map["layers.14.engram.wkv.bias"] = "../elsewhere.safetensors"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert "outside of its folder" in failed(folder)["files"]
    index.write_text("[1, 2")
    assert "is not JSON" in failed(folder)["files"]


def test_the_tokenizer_at_hand(tmp_path, local_bpe, local_word):
    folder = small(tmp_path / "small")
    assert failed(folder) == {}
    assert verdicts(folder)["tokenizer"].ok is None
    assert verdicts(folder, tokenizer=str(local_bpe))["tokenizer"].ok is True
    other = failed(folder, tokenizer=str(local_word))
    assert "another tokenizer: its 23 ids compress to" in other["tokenizer"]
    for file in local_bpe.iterdir():
        shutil.copy(file, folder)
    detail = verdicts(folder)["tokenizer"].detail
    assert detail.startswith("544 ids compress to 447")
    run("verify", folder, "-t", local_word, "--json").json(5)
    wrong = small(tmp_path / "wrong", engram_compressed_vocab_size=448)
    assert "448" in failed(wrong, tokenizer=str(local_bpe))["tokenizer"]


def test_rows_follow_the_order_of_layers(tmp_path):
    """The layers' order decides which primes a table has."""
    turned = small(tmp_path / "turned", engram_layer_ids=[14, 1])
    assert "are swapped" in failed(turned)["tensors"]
    config = inspect_checkpoint(turned).config
    assert {layer: sum(map(sum, primes)) for layer, primes in head_primes(config).items()} == {
        14: 240,
        1: 306,
    }


def test_hashing_with_a_released_checkpoints_own_config(tmp_path):
    """Ids as the released model uses them: its folder is the config."""
    folder = sparse_folder.v41(tmp_path / "v41")
    shutil.copyfile(BPE / "tokenizer.json", folder / "tokenizer.json")
    (tmp_path / "text.txt").write_text("Alexander the Great\n")
    # Another tokenizer than DeepSeek's: its length alone tells.
    done = run("hash", tmp_path / "text.txt", "-c", folder, "--json").ended(5)
    assert "129280" in done.stderr.replace(",", "")
