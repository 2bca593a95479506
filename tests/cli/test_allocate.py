"""`engram allocate`: the answer, the exit code, and what wrong input gets."""

from __future__ import annotations

import json
import shlex

import pytest

from engram.config.config_file import read_config
from engram.pictures import plot_allocation
from support.cli import run
from support.drawn import ink, lines


def test_allocate():
    payload = run("allocate", "--total", "9.9B", "--active", "993M", "--json").json()
    assert payload["schema"] == "engram.allocate/1"
    assert payload["P_sparse"] == payload["P_MoE"] + payload["P_Engram"] == 8_907_000_000
    assert [point["rho"] for point in payload["points"]] == [0.75, 0.8]
    assert payload["rho"] == 0.75
    assert {known["kind"] for known in payload["known"]} == {"printed", "exact", "plot"}
    words = ["--total", "100", "--active", "20", "--rho", "0.5", "--row-width", 8, "--json"]
    assert run("allocate", *words).json()["table_rows"] == 5


def test_allocate_by_experts():
    words = ["--experts-kept", 55, "--experts-baseline", 72, "--experts-active", 6]
    payload = run("allocate", *words, "--json").json()
    assert (payload["rho"], payload["P_Engram"]) == (49 / 66, None)
    code, out, _ = run("allocate", *words, "--total", "26.7B", "--active", "3.8B")
    assert code == 0
    assert "0.7424" in out
    assert run("allocate", *words[:4])[0] == 2
    assert run("allocate", *words, "--rho", "0.5")[0] == 2
    assert run("allocate", "--total", "5B")[0] == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--total", "5B", "--active", "6B"], "'--active': 6,000,000,000 active of 5,000,000,000"),
        (["--total", "x", "--active", "6B"], "'--total': 'x' is not a count"),
        (
            ["--total", "5B", "--active", "3B", "--rho", "2"],
            "'--rho': rho must be between 0 and 1, got 2",
        ),
        (
            ["--total", "5B", "--active", "3B", "--rho", "x"],
            "'--rho': rho must be between 0 and 1, got x",
        ),
        (
            ["--total", "5B", "--active", "3B", "--row-width", "0"],
            "'--row-width': 0 is not ",
        ),
        (
            ["--experts-kept", "80", "--experts-baseline", "72", "--experts-active", "6"],
            "'--experts-kept': 80 experts kept of 72",
        ),
        (["--model", "gpt2"], "is a dense model: it has no routed experts"),
        (["--model", "deepseek-v3", "--experts-kept", "99"], "'--experts-kept': Experts that are"),
        (["--model", "deepseek-v3", "--rho", "x"], "'--rho': rho must be between 0 and 1, got x"),
        (["--model", "deepseek-v3", "--layers", "99"], "'--layers': Layers of deepseek-ai"),
        (["--model", "deepseek-v3", "--total", "5B"], "--model states --total itself"),
        (["--total", "5B", "--active", "3B", "--dim", "8"], "Without --model there is no use for"),
    ],
)
def test_allocate_refuses(words, says):
    code, out, err = run("allocate", *words)
    assert (code, out) == (2, "")
    assert says in err


def test_allocate_fits_a_terminal():
    _, out, err = run("allocate", "--total", "9.9B", "--active", "993M", "--row-width", 80)
    assert max(map(len, out.splitlines())) <= 80
    assert err == "Next: engram size --model MODEL --budget 2226750000\n"


def test_allocate_of_a_model(tmp_path):
    payload = run("allocate", "--model", "qwen3-30b-a3b", "--json").json()
    assert payload["schema"] == "engram.allocate/1"
    assert payload["P_sparse"] == payload["P_tot"] - payload["P_act"] == 27_179_089_920
    assert payload["P_sparse"] == payload["P_MoE"] + payload["P_Engram"]
    assert (payload["rho"], payload["rho_from"], payload["experts_kept"]) == (0.75, "paper", 98)
    assert [point["rho"] for point in payload["points"]][:2] == [1.0, 0.95]
    assert payload["known"]
    assert payload["total_params"] <= payload["model_params"]
    assert payload["token"]["more_flops_share"] < 0.002
    words = ["--rho", "0.8", "--layers", "1,14", "--dim", 1280, "--emit", tmp_path / "new"]
    code, out, err = run("allocate", "--model", "deepseek-v3", *words)
    assert code == 0, err
    assert "208 of 256 experts are kept" in out
    assert "the paper's best, taken" in out
    assert "Engram-27B" in out
    *_, wrote, follow = err.splitlines()
    assert "memory.yaml and " in wrote
    assert run(*shlex.split(follow.removeprefix("Next: engram ")))[0] == 0
    assert (tmp_path / "new" / "base.yaml").read_text().splitlines()[-1] == "n_routed_experts: 208"
    assert read_config(tmp_path / "new" / "memory.yaml").layer_ids == [1, 14]
    refused = run("allocate", "--model", "deepseek-v3", *words)
    assert (refused.code, refused.stdout) == (3, "")
    assert "memory.yaml is already there" in refused.stderr
    assert run("allocate", "--model", "deepseek-v3", *words, "--overwrite")[0] == 0
    done = run("allocate", "--model", "deepseek-v3", "--experts-kept", 192, "--json").json()
    assert (done["rho_from"], done["base_settings"]) == ("experts", {"n_routed_experts": 192})
    done = run("allocate", "--model", "deepseek-v3", "--rho", "1", "--json")
    assert (done.code, json.loads(done.stdout)["fits"]) == (5, False)


@pytest.mark.parametrize(
    "words", [["--total", "9.9B", "--active", "993M"], ["--model", "deepseek-v3"]]
)
def test_a_picture_of_the_law(words, tmp_path):
    picture = tmp_path / "rho.png"
    words = ["allocate", *words, "--plot", picture, "--json"]
    answer = run(*words).json()
    assert ink(picture) > 0.02
    law, other = plot_allocation(answer).axes
    assert lines(law)["printed"][1] == [1.7109, 1.7248]
    has_model = "mixture" in answer
    assert ("P_MoE: experts" in lines(other)) == has_model
    assert "already there" in run(*words).error(3)["message"]
    assert run(*words, "--overwrite").json() == answer
