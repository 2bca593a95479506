"""`engram report`: known sizes, what fits, and what wrong input gets."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import engram
from engram.config.templates import load_template
from engram.sizing.counts import count_params
from support import stored_folder, tiny
from support.cli import imported_by, run
from support.drawn import ink

KNOWN = {
    "demo": ([10_344_164, 10_348_242], 1_324_313_984, 5_297_255_936, "float32"),
    "engram-27b": ([36_199_972, 36_204_260], 5_792_338_560, 11_584_677_120, "bf16"),
    "engram-40b": ([115_837_464, 115_841_428], 18_534_311_360, 37_068_622_720, "bf16"),
    "deepseek-v4.1-flash": ([384_006_168, 384_016_682], 196_613_849_600, 202_758_032_400, "fp8"),
    "qwen3.8-flash-next": ([320_001_536], 51_200_245_760, 102_400_491_520, "bf16"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_published_models(name):
    rows, table_params, table_bytes, dtype = KNOWN[name]
    payload = run("report", name, "--dtype", dtype, "--json").json()
    assert next(iter(payload)) == "schema"
    assert payload["schema"] == "engram.report/1"
    assert [layer["rows"] for layer in payload["layers"]] == rows
    totals = payload["totals"]
    assert (totals["table_params"], totals["table_bytes"]) == (table_params, table_bytes)
    assert sum(layer["table_bytes"] for layer in payload["layers"]) == table_bytes
    assert totals["base_params"] is None
    assert payload["fits"] is None
    assert any("without the base model" in text for text in payload["assumptions"])


def test_padding_is_told_apart():
    (layer,) = run("report", "qwen3.8-flash-next", "--json").json()["layers"]
    assert (layer["rows"], layer["hash_rows"]) == (320_001_536, 320_001_446)
    assert layer["table_params"] == 320_001_536 * 160


def test_rows_add_up_to_the_totals():
    payload = run("report", "gpt2", "--model", "gpt2", "--mode", "training", "--json").json()
    totals, rows = payload["totals"], payload["rows"]
    assert sum(row["bytes"] for row in rows) == totals["total_bytes"]
    params = sum(row["params"] or 0 for row in rows)
    assert params == totals["engram_params"] + totals["base_params"]
    assert totals["engram_params"] == totals["table_params"] + totals["dense_params"]
    assert totals["engram_params"] == count_params(load_template("gpt2")).total_params
    assert totals["base_params"] == 124_439_808
    estimated = [row for row in rows if row["kind"] == "estimated"]
    assert [row["part"] for row in estimated] == ["activations"]
    constants = 2 * 16 * 8 + 4 * 50_257
    assert totals["total_bytes"] == 16 * params + estimated[0]["bytes"] + constants


def test_reads_per_token():
    paper = run("report", "engram-27b", "--dtype", "bf16", "--json").json()["reads"]
    assert paper["rows_per_token_and_layer"] == 16
    assert paper["bytes_per_token_and_layer"] == [2560, 2560]
    v41 = run("report", "deepseek-v4.1-flash", "--json").json()["reads"]
    assert (v41["rows_per_token"], v41["bytes_per_token"]) == (48, 12_672)
    assert "48 in all = 12,672 bytes" in run("report", "deepseek-v4.1-flash")[1]


def test_what_does_not_fit():
    words = ["report", "deepseek-v4.1-flash", "--device-memory", "80GiB"]
    payload = run(*words, "--json").json(5)
    assert payload["fits"] is False
    assert payload["totals"]["rank_gpu_bytes"] > payload["device_memory_bytes"] == 80 * 2**30
    code, out, _ = run(*words)
    assert code == 5
    says = "Fits for inference of the memory alone, tables on the gpu: no, 109.42 GiB"
    assert out.startswith(says)
    for more, fits in (
        (["--tp", 4], True),
        (["--tables", "cpu"], None),
        (["--tables", "cpu", "--host-memory", "1TiB"], True),
        (["--tables", "disk"], None),
    ):
        payload = run(*words, *more, "--json").json()
        assert payload["fits"] is fits, more
        (home,) = [home for home in payload["homes"] if home["tables"] == payload["tables"]]
        assert home["fits"] is fits
    lines = run(*words, "--tables", "disk")[1].partition("tables on  ")[2].splitlines()
    assert [line.split()[-1] for line in lines if line.startswith(("gpu ", "cpu ", "disk "))] == [
        *("no", "unknown", "unknown")
    ]


@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors", "memory.yaml"])
def test_a_gguf_file_is_told_as_such(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"GGUF\3\0\0\0" + bytes(64))
    text = tmp_path / "text.txt"
    text.write_text("The river.")
    for words in (
        ["report", path],
        ["verify", path],
        ["lookup", path, "the river"],
        ["attach", path, "-c", "gpt2", "-o", tmp_path / "out"],
        ["size", "--model", path],
        ["config", "check", path],
        ["hash", text, "-c", path],
        ["hash", text, "-t", path],
        ["hash", path],
        ["convert", path, "-o", tmp_path / "out"],
    ):
        code, out, err = run(*words)
        assert code == 3, (words, err)
        assert "is a GGUF file" in out + err, words
        is_read = words[0] in ("report", "lookup", "verify", "convert")
        told = "without a memory" if is_read else "it was converted from"
        assert told in out + err, words


def test_a_folder_of_gguf_files_is_told_as_such(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF\3\0\0\0" + bytes(64))
    for words in (
        ["report", folder],
        ["attach", folder, "-c", "gpt2", "-o", tmp_path / "out"],
        ["detach", folder, "-o", tmp_path / "out"],
        ["size", "--model", folder],
    ):
        code, _, err = run(*words)
        assert code == 3, (words, err)
        assert "model.gguf is a GGUF file" in err, words


def test_ranks():
    payload = run("report", "deepseek-v4.1-flash", "--tp", 4, "--json").json()
    tables = [row for row in payload["rows"] if row["part"].endswith(".table")]
    assert sum(row["rank_bytes"] for row in tables) == 264 * (96_001_542 + 96_004_171)
    assert payload["totals"]["table_bytes"] == 202_758_032_400
    assert "a rank's bytes" in run("report", "deepseek-v4.1-flash", "--tp", 4)[1]


def test_every_line_is_labelled_for_people():
    words = ["--mode", "training", "--optimizer", "rowwise-adagrad", "--context", 512]
    code, out, _ = run("report", "engram-27b", *words)
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith(("layers.", "table ", "dense "))]
    assert len(lines) == 2 * 6 + 4
    assert all(any(kind in line for kind in ("exact", "nominal", "estimated")) for line in lines)
    assert "512 tokens a step" in out
    assert "without the base model" in out


def test_training_from_files():
    words = ["engram-27b", "--dtype", "bf16", "--mode", "training", "--tables", "disk"]
    words += ["--optimizer", "sparse-momentum", "--tokens-per-second", "1000", "--context", "512"]
    payload = run("report", *words, "--json").json()
    places = {(row["part"], row["place"]) for row in payload["rows"] if "table" in row["part"]}
    assert places == {
        *(("layers.1.table", "disk"), ("layers.14.table", "disk"), ("table shadow", "disk")),
        *(("table optimizer state", "disk"), ("table bitmaps", "cpu")),
        *(("table gradients", "cpu"), ("table shadow index", "cpu")),
    }
    # A row and its momentum, at byte 0 of a page in their files.
    reads = payload["reads"]
    assert (reads["disk_reads_per_token"], reads["rate"]["iops"]) == (64, 64_000)
    assert reads["disk_pages_per_token"]["kind"] == "exact"
    assert [home["tables"] for home in payload["homes"]] == ["gpu", "cpu", "disk"]
    assert [row["optimizer"] for row in payload["training"]] == [
        *("rowwise-adagrad", "rowwise-rmsprop", "sparse-adam", "sparse-momentum")
    ]
    text = run("report", *words).ended().stdout
    assert "From disk, with optimizer state: 64 reads" in text
    assert "Nesterov's momentum at touched rows (momentum of engram train)" in text
    assert "trained in copies of their files" in text
    dense = run("report", "engram-27b", "--mode", "training", "--json").json()
    assert [home["tables"] for home in dense["homes"]] == ["gpu", "cpu"]
    assert len(dense["training"]) == 7


def test_config_file(tmp_path):
    file = tmp_path / "mine.yaml"
    assert run("size", "--model", "gpt2", "--emit", file)[0] == 0
    payload = run("report", file, "--json").json()
    assert payload["totals"]["engram_params"] == 41_479_680


def test_attached_folder(tmp_path):
    folder = stored_folder.write(tmp_path)
    payload = run("report", folder, "--json").json()
    totals = payload["totals"]
    assert [layer["layer_id"] for layer in payload["layers"]] == [3, 1]
    assert (totals["base_params"], totals["base_bytes"]) == (800, 3200)
    assert totals["table_bytes"] == 2 * totals["table_params"]
    assert payload["table_dtype"] == "float16"
    assert {row["kind"] for row in payload["rows"]} == {"exact"}
    cast = run("report", folder, "--dtype", "float32", "--json").json()["totals"]
    assert cast["table_bytes"] == 2 * totals["table_bytes"]
    assert cast["base_bytes"] == 3200
    assert run("report", folder, "--model", "gpt2")[0] == 2


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nope"], 4, "nope is neither a template, nor a file or folder here, nor the id of a"),
        (["nope"], 4, "engram config ls lists the templates."),
        (["gpt3"], 4, "Did you mean gpt2?"),
        (["qwen3.8-flash"], 4, "Did you mean qwen3.8-flash-next"),
        (["./nothing"], 4, "./nothing does not exist."),
        (["nothing.yaml"], 4, "nothing.yaml does not exist."),
        (["gpt2", "--model", "./nothing"], 4, "nothing"),
        (["gpt2", "--mode", "rest"], 2, "rest"),
        (["gpt2", "--optimizer", "lion"], 2, "lion"),
        (["gpt2", "--mode", "training", "--tables", "disk"], 2, "Tables on disk cannot be trained"),
        (
            ["gpt2", "--mode", "training", "--tables", "disk"],
            2,
            "Use --optimizer rowwise-adagrad, ",
        ),
        (["gpt2", "--tp", "-1"], 2, "'--tp' / '--gpus': -1 is not "),
        (["gpt2", "--batch", "0"], 2, "'--batch': 0 is not "),
        (["gpt2", "--csv", "--json"], 2, "--json and --csv exclude each other"),
        (["gpt2", "--dtype", "float3"], 2, "'--dtype': 'float3' is not a table dtype. One of"),
        (["gpt2", "--device-memory", "much"], 2, "'--device-memory': 'much' is not a size"),
        (["gpt2", "--device-memory", "80"], 2, "it has no unit. Write it as 8GiB, 80GB or"),
        (["gpt2", "--host-memory", "-1GiB"], 2, "'--host-memory': '-1GiB' is not a size"),
        ([], 2, "TARGET"),
    ],
)
def test_wrong_input(words, code, says):
    found, out, err = run("report", *words)
    assert (found, out) == (code, "")
    assert says in err
    assert "Traceback" not in err


def test_folder_without_memory(tmp_path):
    assert run("report", tmp_path)[0] == 4
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    code, _, err = run("report", tmp_path)
    assert code == 3
    assert "engram attach" in err


@pytest.mark.parametrize("target", ["gpt2", "folder"])
def test_starts_without_heavy_packages(tmp_path, target):
    target = stored_folder.write(tmp_path) if target == "folder" else target
    done, modules = imported_by("report", target, "--json")
    heavy = {"torch", "transformers", "sympy", "numba", "numpy", "tokenizers", "safetensors"}
    assert done.stderr == ""
    assert not modules & heavy
    assert done.json()["totals"]["table_params"] > 0


def test_it_begins_with_what_is_reported_on(tmp_path):
    folder = stored_folder.write(tmp_path)
    _, out, _ = run("report", folder)
    lines = out.splitlines()
    assert lines[0] == (
        "Fits for inference (caches and activations not counted), tables on the gpu: unknown, "
        "device memory not given."
    )
    assert lines[4:6] == [
        f"{folder} is a model with a memory.",
        "Layout demo: reference demo; Engram-27B and Engram-40B of the paper.",
    ]
    words = ["--mode", "training", "--optimizer", "sgd", "--tables", "cpu"]
    lines = run("report", "engram-27b", *words)[1].splitlines()
    assert lines[0].startswith("Fits for training of the memory alone, tables on the cpu")
    assert lines[5] == "engram-27b is a config."
    assert lines[7] == "Counted for training with sgd, tables in bfloat16 on the cpu."


def test_forms_for_documents_and_spreadsheets():
    payload = run("report", "gpt2", "--json").json()
    lines = run("report", "gpt2", "--csv")[1].splitlines()
    assert lines[0] == "part,params,bytes,kind,place,rank_bytes"
    assert len(lines) == 1 + len(payload["rows"])
    first = payload["rows"][0]
    assert (
        lines[1] == f"{first['part']},{first['params']},{first['bytes']},exact,gpu,{first['bytes']}"
    )
    text = run("report", "gpt2", "--markdown")[1]
    assert "| part | parameters | bytes | kind | place |\n| --- | ---: | ---: | --- | --- |" in text
    short = run("report", "gpt2", "--summary")[1]
    assert any(line.split()[:3] == ["tables", "99.25", "MiB"] for line in short.splitlines())
    assert "layers." not in short


def test_a_base_of_which_only_the_size_is_known():
    words = ["report", "deepseek-v4.1-flash", "--tp", 4, "--device-memory", "80GB"]
    alone = run(*words, "--json").json()
    assert alone["fits"] is True
    assert any("--base-bytes" in text for text in alone["assumptions"])
    assert run(*words)[1].startswith("Fits for inference of the memory alone on 4 GPUs")
    told = run(*words, "--base-bytes", "80GB")[1].splitlines()[0]
    assert told.startswith("Fits for inference (caches and activations not counted) on 4 GPUs")
    beside = run(*words, "--base-bytes", "160GB", "--json").json(5)
    assert beside["totals"]["rank_gpu_bytes"] == alone["totals"]["rank_gpu_bytes"] + 40 * 10**9
    assert beside["fits"] is False


def test_a_base_alone(tmp_path):
    known = run("report", "llama-3.2-1b", "--device-memory", "8GB", "--json").json()
    by_id = run("report", "meta-llama/Llama-3.2-1B", "--device-memory", "8GB", "--json").json()
    assert by_id == {**known, "target": "meta-llama/Llama-3.2-1B"}
    assert (known["target_kind"], known["layout"]) == ("base", None)
    assert known["totals"]["base_params"] == 1_235_814_400
    assert known["totals"]["table_params"] == 0
    assert known["fits"] is True
    folder = tmp_path / "model"
    tiny.base_model("llama", folder)
    alone = run("report", folder, "--json").json()
    assert alone["target_kind"] == "base"
    sized = alone["totals"]["base_bytes"]
    assert sized < sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert sized == 4 * alone["totals"]["base_params"]
    assert "base model without a memory" in run("report", folder)[1]


def test_a_packed_base_alone_has_the_parameters_of_its_config(tmp_path):
    tiny.base_model("llama", tmp_path)
    plain = run("report", tmp_path, "--json").json()["totals"]
    [file] = tmp_path.glob("*.safetensors")
    packed = {
        name.replace(".weight", ".qweight") if "proj" in name else name: (
            tensor[: len(tensor) // 8].to(torch.int32) if "proj" in name else tensor
        )
        for name, tensor in load_file(file).items()
    }
    save_file(packed, file)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = run("report", tmp_path, "--json").json()
    assert found["totals"]["base_params"] == plain["base_params"]
    assert found["totals"]["base_bytes"] == sum(tensor.nbytes for tensor in packed.values())
    assert any("quantised with gptq" in note for note in found["assumptions"])


def test_a_memory_of_another_model_is_told():
    payload = run("report", "gpt2", "--model", "qwen3-0.6b", "--json").json()
    (note,) = [text for text in payload["assumptions"] if "cannot be attached" in text]
    assert "hidden_size must be 1024" in note
    same = run("report", "gpt2", "--model", "gpt2", "--json").json()
    assert not any("cannot be attached" in text for text in same["assumptions"])


def test_an_adapter_beside_its_base(tmp_path):
    base = tiny.base_model("llama", tmp_path / "model")
    engram.attach(base, tiny.memory_config(), tmp_path / "adapter", adapter=True)
    alone = run("report", tmp_path / "adapter", "--json").json()["totals"]
    beside = run("report", tmp_path / "adapter", "--model", base, "--json").json()["totals"]
    assert (alone["base_params"], beside["table_bytes"]) == (None, alone["table_bytes"])
    assert beside["base_params"] == engram.load_backbone(base).params


def test_a_picture_of_the_report(tmp_path):
    picture = tmp_path / "report.png"
    words = ["report", "engram-27b", "--device-memory", "80GB", "--plot", picture]
    answer = run(*words, "--json").json()
    assert ink(picture) > 0.02
    for home in answer["homes"]:
        parts = [it for it in answer["homes_by_part"] if it["tables"] == home["tables"]]
        assert sum(it["rank_bytes"] for it in parts) == sum(
            home[f"rank_{place}_bytes"] for place in ("gpu", "cpu", "disk")
        )
    first = picture.read_bytes()
    assert "already there" in run(*words).ended(3).stderr
    run(*words, "--overwrite", "--csv").ended()
    assert picture.read_bytes() != first  # --csv is a word of the caption
    assert "homes_by_part" not in run("report", "engram-27b", "--json").json()
