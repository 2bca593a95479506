"""`verify` of GGUF: whole files of every dialect, parts of them, and at once for large ones."""

from __future__ import annotations

import time

import pytest

import engram
from engram.errors import InputError, UsageError
from support.cli import command, run
from support.gguf_faults import codes
from support.gguf_files import Tensor, write
from support.gguf_memories import BY_NAME, write_filled, write_memory
from support.paths import BPE, WORD
from support.peak_memory import run_measured

NAMES = sorted(BY_NAME)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file_of_every_dialect_passes(name, tmp_path):
    path = write_memory(tmp_path / "model.gguf", name)
    checks = engram.verify(path)
    assert checks.ok, checks
    assert [check.name for check in checks][:2] == ["dialect", "header"]
    assert [check.name for check in checks][-1] == "memory"
    held = BY_NAME[name].table is not None
    rows = ("encoding", "values")
    assert all(check.ok is (None if check.name in rows and not held else True) for check in checks)


def test_a_tokenizer_is_compared(tmp_path):
    path = tmp_path / "model.gguf"
    write_filled(path, "gguf_llama")
    (check,) = (it for it in engram.verify(path, tokenizer=BPE) if it.name == "tokenizer")
    assert check.ok
    (check,) = (it for it in engram.verify(path, tokenizer=WORD) if it.name == "tokenizer")
    assert check.ok is False


def test_a_file_of_190_gb_is_judged_at_once(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_ds4", changed={"pad_id": 3})
    done, peak_bytes = run_measured(command("verify", path, "--json"), tmp_path)
    assert done.returncode == 5, done.stderr.decode()
    assert peak_bytes < 250e6
    begin = time.perf_counter()
    assert codes(path) == {"CONST_WRONG"}
    assert time.perf_counter() - begin < 2
    code, out, _ = run("verify", path)
    assert code == 5
    assert "CONST_WRONG: the pad is stated as 3" in " ".join(out.split())


def test_what_is_no_memory_is_refused(tmp_path):
    path = write(tmp_path / "plain.gguf", {"general.architecture": ("string", "llama")})
    with pytest.raises(InputError, match="without a memory"):
        engram.verify(path)
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(b"GGUF\3\0\0\0")
    checks = engram.verify(torn)
    assert [(check.name, check.ok) for check in checks] == [("header", False)]


def test_a_table_in_a_file_of_its_own(tmp_path):
    path = tmp_path / "model.gguf"
    name = "per_layer_token_embd.weight"
    write_memory(path, "gguf_qwen4exp", renamed={name: "elsewhere.weight"})
    checks = engram.verify(path)
    assert checks.ok
    assert [check.ok for check in checks if check.name == "memory"] == [None]
    values = {"general.architecture": ("string", "qwen4exp")}
    write(path, values, {name: Tensor((160, 320_001_536), 20)})
    checks = engram.verify(path)
    assert checks.ok
    assert [check.name for check in checks] == [
        *("dialect", "header", "encoding", "values", "memory")
    ]
    write(path, {"general.architecture": ("string", "gemma3n")}, {name: Tensor((256, 30), 12)})
    with pytest.raises(InputError, match="of architecture gemma3n without a memory"):
        engram.verify(path)


def test_options_of_other_targets_are_refused(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_ds4")
    with pytest.raises(UsageError, match="leave --revision and --full out"):
        engram.verify(path, revision="main", full=True)


def test_a_loader_that_has_tables_in_its_files_refuses_one_without(tmp_path):
    path = write_memory(tmp_path / "model.gguf", "gguf_youngai")
    assert "TENSOR_MISSING" in codes(path, engine="llama.cpp")
