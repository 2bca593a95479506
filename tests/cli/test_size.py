"""`engram size`: the answer, the exit code, and what wrong input gets."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from engram.config.config_file import read_config
from engram.pictures import plot_size
from engram.sizing.counts import count_params
from support import sparse_folder
from support.cli import imported_by, run
from support.drawn import column, ink, lines

MACHINES = [
    ["--device-memory", "24GB", "--mode", "training", "--train", "memory"],
    ["--device-memory", "24GB", "--host-memory", "64GB", "--mode", "training", "--train", "memory"],
    ["--host-memory", "8GB", "--gpus", "0"],
    ["--device-memory", "8GB", "--disk", "50GB", "--disk-iops", "500K"],
    ["--device-memory", "4G", "--dtype", "fp8", "--context", "512", "--batch", "4"],
    ["--device-memory", "24GB", "--tp", "2", "--mode", "training", "--context", "1024"],
    ["--device-memory", "1GB", "--budget", "1B"],
    [
        *("--device-memory", "24GB", "--host-memory", "2GB", "--disk", "50GB", "--tables", "disk"),
        *("--mode", "training", "--optimizer", "rowwise-rmsprop", "--save-every", "100"),
        *("--disk-iops", "500K", "--tokens-per-second", "2000"),
    ],
]


def test_gpt2():
    payload = run("size", "--model", "gpt2", "--json").json()
    assert payload["schema"] == "engram.size/1"
    assert payload["model_params"] == 124_439_808
    assert payload["budget_params"] == 41_479_936
    assert (payload["k"], payload["seed_rule_k"]) == (2, 2)
    # By default all rows that fit; a whole k where it is asked for.
    assert payload["engram_table_size"] == [148_175, 148_175]
    assert payload["k_used"] == payload["k_fill"] == 148_175 / 50_257
    assert payload["fits"] is True
    payload = run("size", "--model", "gpt2", "--whole-k", "--json").json()
    assert (payload["k"], payload["k_used"]) == (2, 2)
    assert payload["engram_table_size"] == [100_514, 100_514]
    assert payload["rows_per_head"] == [12_564, 12_564]
    primes = [p for layer in payload["layers"] for heads in layer["primes"] for p in heads]
    assert len(primes) == len(set(primes)) == 32
    assert [layer["layer_id"] for layer in payload["layers"]] == [1, 6]
    assert sum(layer["rows"] for layer in payload["layers"]) * 64 == payload["table_params"]
    total = payload["table_params"] + payload["dense_params"]
    assert payload["total_params"] == total <= payload["budget_params"]
    assert payload["slack_params"] == payload["budget_params"] - total
    assert 2 < payload["k_fill"] < 3
    assert payload["share_of_whole"] == total / (total + 124_439_808)


def test_the_seeds_hidden_size():
    result = run("size", "--model", "gpt2", "--hidden-size", 1024, "--json")
    payload = result.json()
    assert (payload["k"], payload["seed_rule_k"]) == (2, 2)
    assert "cannot be attached" in result[2]


def test_budgets():
    share = run("size", "--model", "gpt2", "--share", "0.5", "--json").json()
    assert share["budget_params"] == share["model_params"]
    counted = run("size", "--model", "gpt2", "--budget", "124439808", "--json").json()
    assert counted["total_params"] == share["total_params"]
    memory = run("size", "--model", "gpt2", "--memory", "64MiB", "--dtype", "bf16", "--json").json()
    assert memory["table_dtype"] == "bfloat16"
    assert memory["plan"]["binding"] == ["bytes of the memory"]
    assert 2**26 - 2**16 < memory["total_bytes"] <= 2**26


def test_without_a_model():
    words = ["--hidden-size", 2560, "--vocab", 128_815, "--layers", "1,14", "--hc-mult", 4]
    words += ["--dim", 640, "--rows", 2_262_400, "--per", "head", "--json"]
    payload = run("size", *words).json()
    assert payload["table_params"] == 5_792_338_560
    assert payload["rows_per_head"] == [2_262_400] * 2
    assert payload["engram_table_size"] == [8 * 2_262_400] * 2
    for key in ("model_params", "budget_params", "seed_rule_k", "k_fill", "slack_params"):
        assert payload[key] is None


def test_k_is_per_order_or_per_head():
    order = run("size", "--model", "gpt2", "--k", 2, "--json").json()
    head = run("size", "--model", "gpt2", "--k", 2, "--per", "head", "--json").json()
    assert (order["k"], order["engram_table_size"][0]) == (2, 100_514)
    assert (head["k"], head["rows_per_head"][0]) == (16, 100_514)


def test_people_read_both_sizes():
    code, out, _ = run("size", "--model", "gpt2", "--whole-k")
    assert code == 0
    assert "rows per ORDER  100,514" in out
    assert "rows per HEAD   12,564" in out
    assert "12,569 to 12,853" in out
    assert "18.99% of the whole" in out
    assert "25.00% of the whole" in run("size", "--model", "gpt2")[1].split("total")[1]
    _, out, _ = run("size", "--model", "gpt2", "--per", "head", "--whole-k")
    assert "12569 12577" in out


def test_emitted_config_is_the_one_that_was_sized(tmp_path):
    file = tmp_path / "engram.yaml"
    payload = run("size", "--model", "gpt2", "--emit", file, "--json").json()
    config = read_config(file)
    assert config.engram_table_size == payload["engram_table_size"]
    assert count_params(config).total_params == payload["total_params"]
    before = file.read_text()
    assert run("size", "--model", "gpt2", "--k", 3, "--emit", file)[0] == 3
    assert file.read_text() == before
    assert run("size", "--model", "gpt2", "--k", 3, "--emit", file, "--overwrite")[0] == 0
    code, out, _ = run("size", "--model", "gpt2", "--emit", "-")
    assert (code, out) == (0, before)


def test_no_k_fits():
    words = ["size", "--model", "gpt2", "--whole-k"]
    code, out, err = run(*words, "--budget", "10M", "--json")
    payload, error = json.loads(out), json.loads(err)
    assert code == 5
    assert (payload["schema"], payload["fits"], payload["k"]) == ("engram.size/1", False, 0)
    assert error["code"] == "does_not_fit"
    needed = payload["smallest_budget_params"]
    assert error["details"]["smallest_budget_params"] == needed
    assert run(*words, "--budget", needed, "--json").json()["k"] == 1
    code, out, err = run(*words, "--budget", "10M")
    assert (code, out) == (5, "")
    assert "50,257 rows per n-gram order and 16,300,032 parameters" in err
    assert "Without --whole-k" in err


@pytest.mark.parametrize("machine", MACHINES)
def test_report_of_what_was_sized_agrees(machine, tmp_path):
    file = tmp_path / "engram.yaml"
    words = ["--model", "smollm2-135m", *machine]
    sized = run("size", *words, "--emit", file, "--json").json()
    told = [word for word in words if word not in ("--budget", "1B")]
    reported = run("report", file, *told, "--json").json()
    plan, totals = sized["plan"], reported["totals"]
    assert sized["fits"] is plan["fits"] is reported["fits"] is True
    assert reported["tables"] == plan["tables"]
    places = plan["places"]
    assert places["gpu"]["used_bytes"] == totals["rank_gpu_bytes"]
    assert places["disk"]["used_bytes"] == totals["rank_disk_bytes"] * max(1, reported["tp"])
    assert places["cpu"]["used_bytes"] == totals["rank_cpu_bytes"] * max(1, reported["tp"])
    if "--budget" not in machine:
        # With one more row for every head it does not fit there.
        rows = sized["engram_table_size"][0] + 8
        there = ["--rows", rows, "--tables", plan["tables"]]
        assert run("size", *words, *there, "--json").json(5)["fits"] is False


def test_people_read_what_limits_them():
    words = ["--device-memory", "24GB", "--mode", "training", "--train", "memory"]
    code, out, _ = run("size", "--model", "qwen3-0.6b", *words, "--train-tokens", "10M")
    assert code == 0
    assert "Fits for training the memory, tables on the gpu: yes." in out
    assert "Limited by device memory; twice the rows would lack" in out
    assert "rowwise-adagrad" in out
    assert "touch a row" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "under rowwise-adagrad at learning rate 0.1 its values"),
        (["--mode", "training"], "under adam at learning rate 0.002 its values"),
        (
            ["--mode", "training", "--optimizer", "sparse-adam"],
            "under sparse-adam at learning rate ",
        ),
        (
            ["--learning-rate", "0.001"],
            "at most 0.05 (gradients of one size, all in one direction)",
        ),
        (["--learning-rate", "0.001"], "less than 0.5, so the tables stay nearly as random"),
    ],
)
def test_advice_on_training_speaks_of_its_optimiser(words, says):
    found = run("size", "--model", "gpt2", "--train-tokens", "10M", *words)
    assert says in found.ended().stdout
    assert "of a machine" not in found.stderr


def test_a_stated_size_that_does_not_fit():
    """It is shown without the step that attaches it; the exit code is that of report."""
    found = run("size", "--model", "gpt2", "--k", "1000", "--device-memory", "1GB")
    assert found.code == 5
    assert "of device memory are missing" in found.stdout
    assert "Next:" not in found.stderr


def test_programs_read_how_busy_the_disk_is():
    words = ["size", "--model", "gpt2", "--device-memory", "4GB", "--disk", "9GB", "--json"]
    reads = ["--disk-iops", "500K", "--tokens-per-second", "2000"]
    found = run(*words, *reads).json()["plan"]["disk_reads"]
    assert found == {"capacity_per_second": 500_000, "used_per_second": 64_000}
    assert run(*words).json()["plan"]["disk_reads"] is None


def test_tables_that_cannot_be_trained_are_noted():
    words = ["size", "--model", "gpt2", "--dtype", "fp8", "--budget", "1B"]
    assert "Tables in fp8 cannot be trained." in run(*words, "--mode", "training")[2]
    assert "cannot be trained" not in run(*words)[2]


def test_a_base_that_is_too_large_says_what_helps():
    words = ["--device-memory", "24GB", "--mode", "training"]
    code, out, err = run("size", "--model", "qwen3-0.6b", *words)
    assert (code, out) == (5, "")
    assert "device memory of 22.35 GiB" in err
    assert "--train memory" in err
    assert "--context" in err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--budget", "1M", "--k", "2"], 2, "exclude each other"),
        (["--k", "2", "--whole-k"], 2, "--whole-k"),
        (["--gpus", "0", "--device-memory", "8GB"], 2, "A machine without GPUs"),
        (["--mode", "training", "--tables", "disk"], 2, "cannot be trained with adam"),
        (["--learning-rate", "-1"], 2, "'--learning-rate': learning_rate must be "),
        (["--learning-rate", "nan"], 2, "learning_rate must be a positive number, got nan"),
        (["--device-memory", "1MB"], 5, "device memory of 976.56 KiB"),
        (["--emit", "-", "--json"], 2, "stdout"),
        (["--per", "row"], 2, "row"),
        (["--heads", "x"], 2, "'--heads': 'x' is not "),
        (["--budget", "-5"], 2, "'--budget': '-5' is not a count. Write it as 40M"),
        (["--budget", "many"], 2, "'--budget': 'many' is not a count"),
        (["--budget", "9" * 5000], 2, "999...' is not a count that anything here can have"),
        (["--budget", "9000000000B", "--dim", "100"], 2, "'--dim': 100 is not a multiple of"),
        (["--memory", "8 apples"], 2, "'--memory': '8 apples' is not a size"),
        (["--memory", "8"], 2, "'--memory': '8' is not a size: it has no unit. Write it as 8GiB"),
        (["--share", "1"], 2, "'--share': share must be between 0 and 1"),
        (["--share", "20"], 2, "Did you mean 20%?"),
        (["--share", "x"], 2, "'--share': share must be between 0 and 1"),
        (["--share", "nan"], 2, "'--share': share must be between 0 and 1"),
        (["--k", "-1"], 2, "'--k': k = -1.0 is not a positive number"),
        (["--k", "nan"], 2, "'--k': k = nan is not a positive number"),
        (["--k", "1e300"], 2, "'--k': k = 1e+300 makes 5.03e+304 rows"),
        (["--k", "1e308"], 2, "'--k': k = 1e+308 makes inf rows"),
        (["--k", "1e-9"], 2, "'--k': engram_table_size: [0, 0]: each order needs"),
        (
            ["--layers", "1,12"],
            2,
            "'--layers': Layers of openai-community/gpt2 must be in 0..11, got 12",
        ),
        (["--layers", "1;6"], 2, "'--layers': '1;6' is not a list of layers. Write it as 1,6."),
        (["--layers", "9" * 5000], 2, "is not a list of layers. Write it as 1,6."),
        (["--layers", "1,1"], 2, "'--layers': [1, 1] names a layer twice"),
        (["--heads", "7"], 2, "'--heads': n_embed_per_ngram: 512 is not a multiple of"),
        (["--heads", "7"], 2, "n_head_per_ngram 7; 511 and 518 are"),
        (["--heads", "0"], 2, "'--heads': must be in 1..256, got 0"),
        (
            ["--heads", "0", "--hc-mult", "0"],
            2,
            "\nInvalid value for '--hc-mult': must be in 1..64, got 0",
        ),
        (["--dtype", "float3"], 2, "'--dtype': 'float3' is not a table dtype. One of"),
        (["--layout", "paper"], 2, "'--layout': Unknown layout 'paper'.\nOne of demo"),
        (["--rows", "3"], 2, "'--rows': [3, 3]: each order needs at least 2 rows"),
        (["--emit", "."], 3, "is a folder"),
        (["--emit", "none/a.yaml"], 4, "none does not exist"),
    ],
)
def test_wrong_input(words, code, says):
    found, out, err = run("size", "--model", "gpt2", *words)
    assert (found, out) == (code, "")
    assert says in err
    assert "Traceback" not in err


def test_programs_learn_which_option_is_wrong():
    for words in (["--budget", "x"], ["--heads", "7"]):
        code, out, err = run("size", "--model", "gpt2", *words, "--json")
        assert (code, out) == (2, "")
        assert json.loads(err)["details"]["options"] == words[:1]


def test_what_the_model_says_is_no_wrong_option(tmp_path):
    config = {"model_type": "llama", "hidden_size": 2**25, "num_hidden_layers": 4}
    config |= {"vocab_size": 1000, "intermediate_size": 96, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, _, err = run("size", "--model", tmp_path, "--budget", "1M", "--heads", 4)
    assert (code, "hidden_size" in err, "--" in err) == (3, True, False)


def test_tables_that_nobody_can_store_are_doubted():
    code, out, err = run("size", "--model", "gpt2", "--k", "1e9")
    assert code == 0
    assert "1e+09" in out
    assert err.startswith("Warning: engram_table_size makes 100,514,000,000,000 rows a layer")
    assert run("size", "--model", "gpt2", "--k", "1e4")[2].startswith("Next: ")


def test_the_next_step_is_no_part_of_the_answer():
    _, out, err = run("size", "--model", "gpt2")
    assert "Next" not in out
    assert err == (
        "Next: the same with --emit engram.yaml, then "
        "engram attach openai-community/gpt2 -c engram.yaml -o FOLDER\n"
    )
    assert run("size", "--model", "gpt2", "-q")[1:] == (out, "")
    assert run("size", "--model", "gpt2", "--json")[2] == ""


def test_the_next_step_quotes_the_config(tmp_path):
    file = tmp_path / "my memory.yaml"
    step = run("size", "--model", "gpt2", "--emit", file)[2].splitlines()[-1]
    assert shlex.split(step)[-4:] == ["-c", str(file), "-o", "FOLDER"]


def test_no_model():
    assert run("size")[0] == 2
    assert run("size", "--share", "0.2")[0] == 2
    assert run("size", "--budget", "1M")[0] == 2
    assert run("size", "--model", "./no-such-folder")[0] == 4


def test_starts_without_heavy_packages():
    done, modules = imported_by("size", "--model", "gpt2", "--json")
    assert done.stderr == ""
    assert not modules & {"torch", "transformers", "sympy", "numba", "tokenizers", "numpy"}
    assert done.json()["k"] == 2


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ({"model_type": "gpt2", "is_encoder_decoder": True}, "an encoder-decoder"),
        ({"model_type": "mamba2"}, "a model without attention"),
    ],
)
def test_no_next_step_leads_to_what_attach_refuses(tmp_path, base, reason):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps({**base, **sizes, "num_attention_heads": 2}))
    tensors = {f"model.layers.{layer}.mixer.weight": ("F32", (8, 64)) for layer in range(2)}
    sparse_folder.write_file(tmp_path / "model.safetensors", tensors)
    code, _, err = run("size", "--model", tmp_path, "--rows", 100)
    assert code == 0, err
    assert reason in err
    assert "attach " not in err.replace("No memory can be attached", "")


def test_what_a_missing_machine_makes_useless_is_told():
    result = run("size", "--model", "gpt2", "--mode", "training", "--batch", 3)
    assert "--mode and --batch: of a machine whose size is not given" in result.stderr
    assert "of a machine" not in run("size", "--model", "gpt2").stderr


def test_a_base_too_large_by_itself_is_told():
    code, _, err = run("size", "--model", "llama-3.1-70b", "--device-memory", "24GB")
    assert code == 5
    assert "The base alone takes 131.42 GiB. More --gpus share it" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--save-every", "9"], "--train, --optimizer and --save-every are of training"),
        (["--train", "memory"], "--train, --optimizer and --save-every are of training"),
        (["--mode", "training", "--dtype", "fp8"], "Tables in fp8 cannot be trained"),
        (["--disk-iops", "0"], "--disk-iops must be >= 1, got 0"),
    ],
)
def test_options_that_do_not_go_together(words, says):
    code, out, err = run("size", "--model", "gpt2", "--device-memory", "8GB", *words)
    assert (code, out) == (2, "")
    assert says in err


def test_a_picture_of_the_size(tmp_path):
    picture = tmp_path / "size.png"
    words = ["size", "--model", "gpt2", "--layers", "1,5", "--plot", picture]
    done = run(*words).ended()
    assert f"Wrote {picture}." in done.stderr
    assert ink(picture) > 0.02
    first = picture.read_bytes()
    answer = run(*words, "--json", "--overwrite").json()
    assert picture.read_bytes() == first
    assert list(answer["curve"][0])[:4] == ["k", "table_params", "total_params", "slack_params"]
    drawn = lines(plot_size(answer).axes[0])
    assert drawn["memory"][1] == column(answer["curve"], "total_params")
    assert "curve" not in run("size", "--model", "gpt2", "--json").json()


def test_pictures_are_checked_before_anything_is_sized(tmp_path, monkeypatch):
    def size(plot):
        return run("size", "--model", "unknown", "--plot", plot, "--json")

    wrong = size(tmp_path / "size.gif").error(2)
    assert ".png, .svg or .pdf" in wrong["message"]
    (tmp_path / "size.png").write_bytes(b"mine")
    assert "already there" in size(tmp_path / "size.png").error(3)["message"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    missing = size(tmp_path / "new.png").error(4)
    assert missing["hint"] == "pip install 'engram-toolkit[pictures]'"
    assert [path.name for path in tmp_path.iterdir()] == ["size.png"]
