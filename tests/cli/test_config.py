"""`engram config`: ls, new, show, check, for people and for programs."""

import json
import re
import shlex
from pathlib import Path

import pytest

from engram.config.config_file import read_config
from engram.config.engram_config import EngramConfig
from engram.config.templates import load_config, load_template, template_names, template_path
from support.cli import run


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def answer(*words):
    done = run("config", *words, "--json")
    payload = done.json(done.code)
    assert payload["schema"] == "engram.config/1"
    return done.code, payload


def failure(*words):
    done = run("config", *words, "--json")
    return done.code, done.error(done.code)


def test_ls():
    code, payload = answer("ls")
    assert code == 0
    assert [template["name"] for template in payload["templates"]] == template_names()
    assert all(template["title"] for template in payload["templates"])
    code, out, _ = run("config", "ls")
    assert code == 0
    assert len(out.splitlines()) == len(template_names())


def test_show_prints_rows_per_head_beside_the_table_sizes():
    _, payload = answer("show", "demo")
    assert payload["config"] == load_template("demo").to_dict()
    assert payload["derived"] == {
        "k": [5171200 / 128815] * 2,
        "engram_table_size": [5171200, 5171200],
        "rows_per_head": [646400, 646400],
        "row_width": 64,
        "memory_width": 1024,
        "layers": [{"layer_id": 1, "rows": 10344164}, {"layer_id": 15, "rows": 10348242}],
        "rows_per_token": 32,
        "bytes_per_token": 32 * 64 * 4,
        "table_dtype": "float32",
        "table_dtype_from": "config",
    }
    _, out, _ = run("config", "show", "demo")
    assert "# Rows per HEAD: [646400, 646400], this // n_head_per_ngram." in out
    assert "646,400, 646,400" in out


def test_released_models_read_what_their_sources_say():
    _, payload = answer("show", "deepseek-v4.1-flash")
    assert (payload["derived"]["rows_per_token"], payload["derived"]["bytes_per_token"]) == (
        48,
        12_672,
    )
    _, payload = answer("show", "engram-27b")
    assert payload["derived"]["bytes_per_token"] == 2 * 2560


def test_what_is_shown_and_made_reads_back_equal(tmp_path):
    for name in template_names():
        for words in (("show", name), ("new", name)):
            _, out, _ = run("config", *words)
            file = tmp_path / "shown.yaml"
            file.write_text(out)
            assert read_config(file) == load_template(name)


def test_new_writes_a_file_once(tmp_path):
    file = tmp_path / "a.yaml"
    assert answer("new", "gpt2", "-o", file, "--dry-run")[1]["written"] is False
    assert not file.exists()
    code, payload = answer("new", "gpt2", "-o", file)
    assert (code, payload["written"], payload["output"]) == (0, True, str(file))
    assert read_config(file) == load_template("gpt2")
    for words in ((), ("--dry-run",)):
        code, error = failure("new", "tiny", "-o", file, *words)
        assert (code, error["code"]) == (3, "bad_input")
        assert "--overwrite" in error["hint"]
    assert read_config(file) == load_template("gpt2")
    assert run("config", "new", "tiny", "-o", file, "--overwrite")[0] == 0
    assert read_config(file) == load_template("tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


def test_new_into_places_that_are_none(tmp_path):
    code, error = failure("new", "gpt2", "-o", tmp_path)
    assert (code, error["code"]) == (3, "bad_input")
    code, error = failure("new", "gpt2", "-o", tmp_path / "none" / "a.yaml")
    assert (code, error["code"]) == (4, "missing_file")


def test_set_values_are_yaml():
    _, payload = answer(
        *("new", "gpt2", "--set", "layer_ids=[5, 1]", "--set", "eps=1e-6"),
        *("--set", "tokenizer=a=b", "--set", "eos_id="),
    )
    assert payload["config"] == {
        **load_template("gpt2").to_dict(),
        **{"layer_ids": [5, 1], "eps": 1e-6, "tokenizer": "a=b", "eos_id": None},
    }


def test_k_replaces_the_table_size():
    for words in (("--k", "5"), ("--set", "k=5")):
        _, payload = answer("new", "gpt2", *words)
        assert payload["config"]["engram_table_size"] == [5 * 50257] * 2
        assert payload["derived"]["k"] == [5, 5]
    _, payload = answer("new", "gpt2", "--set", "engram_table_size=[1600, 3200]")
    assert payload["derived"]["rows_per_head"] == [200, 400]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--k", "2", "--budget", "40M"], 2, "more than once: by k, budget"),
        (["--k", "2", "--set", "k=3"], 2, "more than once: by k, set k"),
        (["--set", "k=3", "--set", "engram_table_size=[800, 800]"], 2, "more than once"),
        (["--set", "seed=1", "--set", "seed=2"], 2, "--set seed: given twice"),
        (["--set", "seed"], 2, "not of the form KEY=VALUE"),
        (["--set", "=1"], 2, "not of the form KEY=VALUE"),
        (["--set", "seed=[1"], 2, "not YAML"),
        (["--set", "sede=1"], 2, "'--set': sede: unknown key; did you mean seed?"),
        (["--set", "seed=x"], 2, "'--set': seed: 'x' is not a whole number"),
        (["--set", "layout=qwen_ple"], 2, "'--set': eos_id: missing: layout qwen_ple"),
        (["--set", "k=1e400"], 2, "'--set': k: inf is not a positive number"),
        (["--set", f"k={10**400}"], 2, "'--set': k: that many times the vocabulary"),
        (["--k", "-1"], 2, "'--k': -1.0 is not a positive number"),
        (["--k", "1e300"], 2, "'--k': that many times the vocabulary is too many rows for 62-bit"),
        (["--budget", "lots"], 2, "'--budget': 'lots' is not a count"),
    ],
)
def test_new_refuses(words, code, message):
    found, error = failure("new", "gpt2", *words)
    assert (found, message in error["message"]) == (code, True), error


def test_a_budget_that_nothing_fits_is_answered_in_both_forms():
    code, out, err = run("config", "new", "gpt2", "--budget", "1M", "--json")
    answer, error = json.loads(out), json.loads(err)
    assert (code, answer["schema"], answer["fits"]) == (5, "engram.config/1", False)
    assert answer["smallest_budget_params"] > 1_000_000
    assert error["code"] == "does_not_fit"
    code, out, err = run("config", "new", "gpt2", "--budget", "1M")
    assert (code, out) == (5, "")
    assert "Too small: budget of 1,000,000 parameters" in err


def test_new_for_a_model_of_the_catalogue():
    _, payload = answer("new", "gpt2", "--model", "qwen3-0.6b")
    made = EngramConfig.from_dict(payload["config"])
    assert (made.hidden_size, made.engram_vocab_size, made.layer_ids) == (1024, 151669, [1, 14])
    assert made.tokenizer == "Qwen/Qwen3-0.6B"
    assert made.engram_table_size == [2 * 151669] * 2  # gpt2's k
    assert made.seed == 42


def test_a_model_without_pad_gets_its_end_of_text():
    _, payload = answer("new", "smollm2", "--model", "gpt2")
    assert payload["config"]["pad_id"] == 50256


def test_new_for_a_folder_and_a_budget(tmp_path):
    config = {
        **{"model_type": "llama", "hidden_size": 48, "num_hidden_layers": 9, "vocab_size": 1000},
        **{"intermediate_size": 96, "num_attention_heads": 4, "pad_token_id": 7, "eos_token_id": 2},
    }
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    _, payload = answer("new", "tiny", "--model", "./model", "--budget", "1M")
    made = EngramConfig.from_dict(payload["config"])
    assert (made.hidden_size, made.engram_vocab_size, made.layer_ids) == (48, 1000, [1, 4])
    assert (made.pad_id, made.eos_id, made.n_head_per_ngram) == (7, 2, 4)
    assert payload["derived"]["k"][0] > 16  # tiny's own is 16384 / 50257

    from engram.sizing.counts import count_params

    total = count_params(made).total_params
    more = made.engram_table_size[0] + 1
    wider = EngramConfig.from_dict({**payload["config"], "engram_table_size": [more] * 2})
    assert total <= 1_000_000 < count_params(wider).total_params


def test_new_for_a_model_alone():
    _, payload = answer("new", "--model", "smollm2-135m")
    made = EngramConfig.from_dict(payload["config"])
    sized = run("size", "--model", "smollm2-135m", "--json").json()
    assert made.engram_table_size == sized["engram_table_size"]
    assert payload["template"] is None
    by_k = answer("new", "--model", "smollm2-135m", "--k", "2")[1]["config"]
    assert by_k["engram_table_size"] == [2 * 49_152] * 2
    code, error = failure("new")
    assert (code, "template or a model" in error["message"]) == (2, True)


def test_layers_that_the_model_lacks_are_refused():
    words = ("new", "smollm2", "--model", "smollm2-135m", "--set")
    code, error = failure(*words, "layer_ids=[1,40]")
    assert (code, error["details"]) == (2, {"options": ["--set"]})
    assert "'--set': layer_ids: " in error["message"]
    assert "SmolLM2-135M must be in 0..29, got 40." in error["message"]
    assert answer(*words, "layer_ids=[1,29]")[1]["config"]["layer_ids"] == [1, 29]
    assert answer("new", "smollm2", "--set", "layer_ids=[1,40]")[0] == 0  # for any model


def test_a_question_ends_with_its_mark():
    error = failure("new", "gpt2", "--set", "layer_id=[1]")[1]
    assert error["message"].endswith("did you mean layer_ids?")


def test_the_tokenizer_of_a_folder_is_found_from_anywhere(tmp_path, monkeypatch):
    folder = tmp_path / "mo@del"
    folder.mkdir()
    values = {"model_type": "llama", "hidden_size": 48, "num_hidden_layers": 9, "vocab_size": 1000}
    values |= {"intermediate_size": 96, "num_attention_heads": 4, "pad_token_id": 7}
    (folder / "config.json").write_text(json.dumps(values))
    (tmp_path / "far").mkdir()
    answer("new", "tiny", "--model", "mo@del", "-o", "far/memory.yaml")
    monkeypatch.chdir("/")
    assert load_config(tmp_path / "far" / "memory.yaml").tokenizer == str(folder)


def test_a_template_of_one_layer_stays_one():
    _, payload = answer("new", "qwen3.8-flash-next", "--model", "qwen3-0.6b")
    assert payload["config"]["layer_ids"] == [1]
    assert payload["config"]["engram_vocab_size"] == 151936  # raw ids: the model's vocabulary
    assert payload["config"]["eos_id"] == 151645


def test_check_tells_every_problem_and_keeps_the_verdict(tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    run("config", "new", "gpt2", "-o", good)
    bad.write_text("layout: demo\nhiden_size: 3\n")
    assert answer("check", good, "demo")[1] | {"files": None} == {
        **{"schema": "engram.config/1", "ok": True, "files": None},
    }
    code, payload = answer("check", good, bad)
    assert (code, payload["ok"]) == (3, False)
    assert [file["ok"] for file in payload["files"]] == [True, False]
    problem = payload["files"][1]["problems"][-1]
    assert (problem["key"], problem["line"]) == ("hiden_size", 2)
    code, out, err = run("config", "check", good, bad)
    assert code == 3
    assert err.startswith("Next: `engram config show gpt2`")
    assert f"{good}: ok\n" in out
    assert f"{bad}:2: hiden_size: unknown key; did you mean hidden_size?" in out


def test_check_goes_on_behind_a_file_that_is_not_there(tmp_path):
    (tmp_path / "bad.yaml").write_text("layout: none\n")
    sources = ("gpt2", "none.yaml", "bad.yaml", tmp_path, "gpt-2")
    code, payload = answer("check", *sources)
    assert (code, payload["ok"]) == (4, False)
    assert [file["ok"] for file in payload["files"]] == [True, False, False, False, False]
    assert [file["path"] for file in payload["files"]][1:] == [
        *("none.yaml", "bad.yaml", str(tmp_path), "gpt-2")
    ]
    code, out, _ = run("config", "check", *sources)
    assert code == 4
    assert "none.yaml does not exist. " in out
    assert "bad.yaml:1: layout: unknown layout 'none'" in out
    assert f"{tmp_path} is a folder; a config must be a file." in out
    assert "'gpt-2' is neither a template nor a file here. Did you mean gpt2?" in out
    assert run("config", "check", "gpt2", "bad.yaml")[0] == 3


def test_check_doubts_tables_that_nobody_can_store(tmp_path):
    text = run("config", "new", "gpt2").stdout.replace("100514", "10000000000000")
    (tmp_path / "huge.yaml").write_text(text)
    code, payload = answer("check", "huge.yaml", "engram-40b")
    assert (code, payload["ok"]) == (0, True)
    assert [len(file["warnings"]) for file in payload["files"]] == [1, 0]
    code, out, err = run("config", "check", "huge.yaml")
    assert (code, out) == (0, "huge.yaml: ok, with 1 warning\n")
    assert err.startswith("Warning: huge.yaml: engram_table_size makes 20,000,000,000,000 rows")
    (tmp_path / "wide.yaml").write_text(
        text.replace("10000000000000", "300000000000").replace(
            "n_embed_per_ngram: 512", "n_embed_per_ngram: 4096"
        )
    )
    assert "makes tables of 2235.17 TiB" in run("config", "check", "wide.yaml")[2]


def test_what_is_not_there_is_named():
    code, error = failure("show", "none.yaml")
    assert (code, error["code"]) == (4, "missing_file")
    assert "none.yaml" in error["message"]
    code, error = failure("show", "gpt-2")
    assert (code, error["hint"]) == (4, "Did you mean gpt2?")


def test_new_prints_to_stdout_for_a_dash(tmp_path):
    assert run("config", "new", "tiny", "-o", "-") == run("config", "new", "tiny")
    assert list(tmp_path.iterdir()) == []
    assert failure("new", "tiny", "-o", "-")[0] == 2


def test_check_compares_with_a_model():
    assert answer("check", "gpt2", "--model", "gpt2")[1]["ok"] is True
    words = ("--set", "layer_ids=[1,12]", "--set", "hidden_size=512", "-o", "a.yaml")
    run("config", "new", "gpt2", *words)
    code, payload = answer("check", "a.yaml", "--model", "gpt2")
    assert (code, payload["ok"]) == (3, False)
    problems = {it["key"]: it["message"] for it in payload["files"][0]["problems"]}
    assert problems.keys() == {"layer_ids", "hidden_size"}
    assert "layers 0 to 11" in problems["layer_ids"]
    assert "must be 768, that of openai-community/gpt2, got 512" in problems["hidden_size"]
    next_step = run("config", "check", "a.yaml", "--model", "gpt2")[2]
    assert "engram config new TEMPLATE --model MODEL fits a template to a model" in next_step
    problems = answer("check", "llama", "--model", "gpt2")[1]["files"][0]["problems"]
    assert {"engram_vocab_size", "hidden_size"} <= {problem["key"] for problem in problems}


def test_check_doubts_tables_that_any_text_fills():
    for name in template_names():
        assert answer("check", name)[1]["files"][0]["warnings"] == [], name
    run("config", "new", "gpt2", "--set", "engram_table_size=[2048,256]", "-o", "small.yaml")
    code, out, err = run("config", "check", "small.yaml")
    assert (code, out) == (0, "small.yaml: ok, with 1 warning\n")
    assert "32 rows per HEAD for 50,257 token ids: any text fills" in err


def test_check_doubts_a_config_that_no_layer_reads():
    text = template_path("tiny").read_text()
    for layers, doubts in (("[]", 1), ("[1]", 0)):
        Path("a.yaml").write_text(re.sub(r"layer_ids: .*", f"layer_ids: {layers}", text))
        warnings = answer("check", "a.yaml")[1]["files"][0]["warnings"]
        assert len(warnings) == doubts
        assert run("report", "a.yaml").code == (3 if doubts else 0)
        assert all("report" in text for text in warnings)


def test_check_doubts_a_pad_that_texts_hold(local_bpe):
    settings = [f"tokenizer={local_bpe}", "engram_vocab_size=544", "eos_id=1"]
    words = [word for setting in settings for word in ("--set", setting)]
    for pad, doubts in (("2", 0), ("1", 0), ("300", 1), ("nothing", 1)):
        more = ("--set", f"pad_id={pad}", "-o", "a.yaml", "--overwrite")
        run("config", "new", "tiny", *words, *more)
        code, payload = answer("check", "a.yaml")
        warnings = payload["files"][0]["warnings"]
        assert (code, len(warnings)) == (0, doubts), warnings
        assert all(f"pad_id {pad}" in text.replace("'", "") for text in warnings)


def test_the_next_step_quotes_the_file(tmp_path):
    file = tmp_path / "my memory.yaml"
    step = run("config", "new", "gpt2", "-o", file)[2].splitlines()[-1]
    assert shlex.split(step) == ["Next:", "engram", "report", str(file)]
