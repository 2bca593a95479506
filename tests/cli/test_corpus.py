"""`engram corpus`: build, info and verify; what wrong calls and damaged folders get."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from support.cli import imported_by, run
from support.paths import BPE, WORD
from support.short_text import DOCUMENTS, TEXT


@pytest.fixture
def folder(text, tmp_path):
    folder = tmp_path / "tokens"
    assert run("corpus", "build", text, "-t", BPE, "-o", folder, "--shard-size", "100")[0] == 0
    return folder


def answer(result, code=0):
    payload = result.json(code)
    assert payload["schema"] == "engram.corpus/1"
    return payload


def test_build(text, tmp_path):
    folder = tmp_path / "tokens"
    words = ("corpus", "build", text, "-t", BPE, "-o", folder, "--json")
    payload = answer(run(*words))
    assert (payload["documents"], payload["skipped"]) == (DOCUMENTS, 0)
    assert payload["output_bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    tokens = np.load(folder / "tokens-00000.npy")
    assert (len(tokens), tokens.dtype.name) == (payload["tokens"], payload["dtype"])
    assert (tokens == payload["tokenizer"]["eos_id"]).sum() == DOCUMENTS
    assert "--overwrite" in run(*words).error(3)["hint"]
    again = answer(run(*words, "--resume"))
    assert (again["was_finished"], again["tokens"]) == (True, payload["tokens"])
    bare = answer(run(*words, "--no-eos", "--overwrite"))
    assert bare["tokens"] == payload["tokens"] - DOCUMENTS


def test_the_next_step_quotes_the_folder(text, tmp_path):
    folder = tmp_path / "token shards"
    step = run("corpus", "build", text, "-t", BPE, "-o", folder)[2].splitlines()[-1]
    words = shlex.split(step)
    assert words == ["Next:", "engram", "hash", str(folder), "-c", "CONFIG"]


def test_build_as_text(text, tmp_path):
    code, out, err = run("corpus", "build", text, "-t", BPE, "-o", tmp_path / "tokens")
    notes = ["Tokenised with tokenizers: the text is small."]
    notes.append(f"Next: engram hash {tmp_path / 'tokens'} -c CONFIG")
    assert (code, err.splitlines()) == (0, notes)
    ends = f" tokens in {DOCUMENTS} documents, each ended by <eos> (--no-eos leaves it out)"
    assert out.splitlines()[0].endswith(ends)


def test_dry_run_writes_nothing(text, tmp_path):
    payload = answer(
        run("corpus", "build", text, "-t", BPE, "-o", tmp_path / "o", "--dry-run", "--json")
    )
    assert payload["input_bytes"] == len(TEXT)
    assert not (tmp_path / "o").exists()


@pytest.fixture
def unfinished(text, tmp_path, monkeypatch):
    """A build that broke off behind its first unit, of a text of several."""
    from engram.corpus.building import build_corpus as module

    text.write_text(TEXT * 20)
    plan, done = module.plan_units, []
    monkeypatch.setattr(module, "plan_units", lambda files, split, _: plan(files, split, 9000))
    run_local = module.run_local

    def break_off(*call):
        for result in run_local(*call):
            if done:
                raise KeyboardInterrupt
            done.append(result)
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_local", break_off)
        code, out, err = run("corpus", "build", text, "-t", BPE, "-o", tmp_path / "kd", "-j", "1")
    assert (code, out) == (130, ""), err
    assert err.count("Finished work is kept: continue with --resume") == 1
    return tmp_path / "kd"


def test_an_unfinished_build_is_refused_by_a_dry_run_too(text, unfinished):
    words = ("corpus", "build", text, "-t", BPE, "-o", unfinished)
    for more in ((), ("--dry-run",)):
        code, out, err = run(*words, *more)
        assert (code, out) == (3, "")
        assert "There is an unfinished build" in err
        assert err.count("--resume") == 1
    for more in (("--resume",), ("--resume", "--dry-run")):
        code, out, err = run(*words, *more, "--shard-size", "1000")
        assert code == 3
        assert "was started with shard size 4,194,304, not 1,000." in err
        assert "Finished work is kept" not in err
    code, out, err = run(*words, "--resume", "--no-eos")
    assert "was started with end-of-text tokens yes, not no." in err
    assert run(*words, "--dry-run", "--resume")[0] == 0
    assert run(*words, "--dry-run", "--overwrite")[0] == 0


def test_the_rate_is_that_of_this_run(text, unfinished):
    words = ("corpus", "build", text, "-t", BPE, "-o", unfinished, "--resume", "--json")
    payload = answer(run(*words))
    assert payload["resumed_units"] >= 1
    units = json.loads((unfinished / "manifest.json").read_text())["units"]
    fresh = sum(unit["tokens"] for unit in units[payload["resumed_units"] :])
    assert 0 < fresh < payload["tokens"]
    assert payload["tokens_per_second"] == pytest.approx(fresh / payload["seconds"], rel=0.05)
    again = answer(run(*words))
    assert (again["was_finished"], again["tokens_per_second"]) == (True, None)


def test_why_the_fast_engine_is_not_used_is_a_detail(text, tmp_path, monkeypatch):
    from engram.corpus.building import unit_work

    sentence = "Tokenised with tokenizers (gigatoken does not support this tokenizer)."
    monkeypatch.setattr(
        unit_work, "_fast_encoder", lambda *_: (None, f"{sentence}\nThe reason: none.")
    )
    words = ("corpus", "build", text, "-t", BPE, "-o", tmp_path / "kd", "--overwrite")
    _, _, err = run(*words)
    assert sentence in err
    assert "The reason" not in err
    assert f"{sentence}\nThe reason: none.\n" in run(*words, "-v")[2]


def test_what_breaks_off_before_anything_is_finished_says_so(text, tmp_path, monkeypatch):
    from engram.corpus.building import local_engine

    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(local_engine, "encode_unit", interrupt)
    try:
        code, _, err = run("corpus", "build", text, "-t", BPE, "-o", tmp_path / "kd", "-j", "1")
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else, a second one ends this
    assert code == 130, err
    nothing, interrupted = err.splitlines()[-2:]
    assert nothing.startswith("Nothing is kept")
    assert interrupted == "Interrupted."
    assert sorted(tmp_path.iterdir()) == [text]


def test_stdin_and_several_inputs(text, tmp_path, monkeypatch):
    lines = tmp_path / "records" / "a.jsonl"
    lines.parent.mkdir()
    lines.write_text("".join(f'{{"body": "record {i}"}}\n' for i in range(9)))
    (lines.parent / "notes.md").touch()
    words = ("corpus", "build", text, lines.parent, "-t", BPE, "-o", tmp_path / "both")
    result = run(*words, "--text-column", "body", "--json")
    assert answer(result)["documents"] == DOCUMENTS + 9
    left = lines.parent / "notes.md"
    assert f"1 entry was not read: {left} (not text by its name)." in result[2]
    assert answer(result)["passed_over"] == {
        "count": 1,
        "entries": [{"name": str(left), "reason": "not text by its name"}],
    }
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    words = ("corpus", "build", "-", "-t", BPE, "-o", tmp_path / "stdin", "-j", "2", "--json")
    assert answer(run(*words))["documents"] == DOCUMENTS


def test_what_is_wrong_is_said_and_what_is_done_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("engram.corpus.building.build_corpus.UNIT_BYTES", 100)
    path = tmp_path / "bad.txt"
    path.write_bytes(TEXT.encode() + b"\n\nbad \xff\n\ngood")
    words = ("corpus", "build", path, "-t", BPE, "-o", tmp_path / "o", "-j", "1", "--json")
    result = run(*words)
    assert f"{path}:123: byte " in result.error(3)["message"]
    code, out, err = run(*words, "--on-error", "skip", "--overwrite")
    assert code == 0
    assert "1 document was skipped:" in err
    assert f"{path}:123" in err
    assert json.loads(out)["skipped"] == 1
    assert str(path) in run("corpus", "info", tmp_path / "o")[1]


def test_info_of_hash_ids_names_the_command_for_them(folder):
    ids = folder.with_name("ids of it")
    assert run("hash", folder, "-t", BPE, "-o", ids).code == 0
    error = run("corpus", "info", ids, "--json").error(3)
    assert error["message"] == f"{ids} holds hash ids, not a corpus of tokens."
    assert run(*shlex.split(error["hint"])[1:4]).code == 0


def test_info(folder):
    payload = answer(run("corpus", "info", folder, "--json"))
    assert payload["documents"] == DOCUMENTS
    assert payload["shards"] > 1
    assert payload["inputs"][0]["bytes"] == len(TEXT)
    out = run("corpus", "info", folder)[1]
    assert f" tokens in {DOCUMENTS} documents, each ended by token 1" in out.splitlines()[0]
    assert payload["output_bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    error = run("corpus", "info", folder / "nope", "--json").error(4)
    assert error["message"] == f"{folder / 'nope'} does not exist."
    run("corpus", "info", folder.parent, "--json").error(4)
    file = folder / "manifest.json"
    error = run("corpus", "info", file, "--json").error(4)
    assert error["message"] == f"{file} is not a corpus: it has no manifest.json."


def test_verify(folder, text):
    payload = answer(run("corpus", "verify", folder, "--json"))
    assert payload["ok"] is True
    assert [check["ok"] for check in payload["checks"]] == [True] * 5
    assert "41 documents tokenised again are equal" in payload["checks"][-1]["detail"]
    one = folder.with_name("one")
    run("corpus", "build", text, "-t", BPE, "-o", one, "--split", "file")
    out = run("corpus", "verify", one)[1]
    assert "counts: 1 document, " in out
    assert "text: 1 document tokenised again is equal" in out
    text.unlink()
    payload = answer(run("corpus", "verify", folder, "--json"))
    assert [check["ok"] for check in payload["checks"]] == [True] * 4 + [None]
    text.write_text(TEXT.replace("Milky", "Silky"))
    payload = answer(run("corpus", "verify", folder, "--json"), 5)
    assert "document 0 is not what" in payload["checks"][-1]["detail"]
    assert "FAILED       text: " in run("corpus", "verify", folder)[1]


def test_files_that_were_damaged_are_named(folder, tmp_path):
    def verdict(damage):
        copy = shutil.copytree(folder, tmp_path / "copy")
        damage(copy / "tokens-00001.npy")
        payload = answer(run("corpus", "verify", copy, "--json"), 5)
        shutil.rmtree(copy)
        (check,) = payload["checks"]
        return check["detail"]

    assert "tokens-00001.npy is truncated" in verdict(
        lambda path: path.write_bytes(path.read_bytes()[:-4])
    )
    assert "tokens-00001.npy is too long" in verdict(
        lambda path: path.write_bytes(path.read_bytes() + b"0")
    )
    assert "tokens-00001.npy was changed" in verdict(
        lambda path: path.write_bytes(path.read_bytes()[:-2] + b"zz")
    )
    assert "tokens-00001.npy is missing" in verdict(Path.unlink)
    assert "foreign.npy is foreign" in verdict(lambda path: path.with_name("foreign.npy").touch())
    manifest = folder / "manifest.json"
    for content in (
        "",
        "{",
        "[]",
        '{"schema": "engram.hashes/1"}',
        '{"schema": "engram.corpus/1"}',
    ):
        manifest.write_text(content)
        assert str(manifest) in run("corpus", "verify", folder, "--json").error(3)["message"]


def test_what_the_files_hold_is_checked_behind_their_digests(folder):
    from engram.corpus.results.result_folder import MANIFEST
    from engram.storage.files import sha256_of

    def verdict(name, array):
        saved = (folder / name).read_bytes(), (folder / MANIFEST).read_bytes()
        np.save(folder / name, array)
        manifest = json.loads(saved[1])
        for file in manifest["files"]:
            path = folder / file["name"]
            file |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        (folder / MANIFEST).write_text(json.dumps(manifest))
        payload = answer(run("corpus", "verify", folder, "--json"), 5)
        (folder / name).write_bytes(saved[0])
        (folder / MANIFEST).write_bytes(saved[1])
        return "; ".join(check["detail"] for check in payload["checks"] if not check["ok"])

    tokens, bounds = (np.load(folder / f"{kind}-00000.npy") for kind in ("tokens", "documents"))
    changed = tokens.copy()
    changed[0] = 600
    assert "holds the id 600" in verdict("tokens-00000.npy", changed)
    changed = tokens.copy()
    changed[-1] = 5
    assert "does not end with the id 1" in verdict("tokens-00000.npy", changed)
    changed[-1], changed[0] = tokens[-1], 5
    assert "document 0 is not what" in verdict("tokens-00000.npy", changed)
    assert "tokens and" in verdict("tokens-00000.npy", tokens[:-1])
    bounds[1], bounds[2] = bounds[2], bounds[1]
    assert "falls at document 1" in verdict("documents-00000.npy", bounds)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("build", "none.txt", "-t", BPE, "-o", "o"), 4),
        (("build", "empty.txt", "-t", BPE, "-o", "o"), 3),
        (("build", "folder", "-t", BPE, "-o", "o"), 3),
        (("build", "text.txt", "-t", BPE), 2),
        (("build", "text.txt", "-o", "o"), 2),
        (("build", "text.txt", "-t", "no/such/tokenizer", "-o", "o"), 4),
        (("build", "text.txt", "-t", WORD, "-o", "o"), 3),
        (("build", "text.txt", "-t", BPE, "-o", "text.txt", "--overwrite"), 3),
        (("build", "text.txt", "-", "-t", BPE, "-o", "o"), 2),
        (("build", "-", "-t", BPE, "-o", "o", "--resume"), 2),
        (("build", "-", "-t", BPE, "-o", "o", "--engine", "ray"), 2),
        (("build", "text.txt", "-t", BPE, "-o", "o", "--address", "auto"), 2),
        (("build", "text.txt", "-t", BPE, "-o", "o", "--shard-size", "0"), 2),
        (("info", "none"), 4),
        (("verify", "folder"), 4),
    ],
)
def test_wrong_calls(text, tmp_path, monkeypatch, words, code):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    error = run("corpus", *words, "--json").error(code)
    assert error["message"]
    assert sorted(tmp_path.rglob("*")) == before


def test_neither_torch_nor_transformers_is_imported(text, tmp_path):
    done, modules = imported_by("corpus", "build", text, "-t", BPE, "-o", tmp_path / "o", "-q")
    assert done.ended().stderr == ""
    assert not modules & {"torch", "transformers", "sympy", "numba", "ray"}


@pytest.mark.parametrize("eos", [True, False])
def test_hash_of_a_corpus_is_that_of_its_text(text, tmp_path, eos):
    words = () if eos else ("--no-eos",)
    folder = tmp_path / "tokens"
    assert run("corpus", "build", text, "-t", BPE, "-o", folder, "--shard-size", 99, *words)[0] == 0
    of_text = (text, "-t", BPE, *words)
    payloads = []
    for name, source in (("a", of_text), ("b", (folder,))):
        code, out, err = run("hash", *source, "-o", tmp_path / name, "--json")
        assert code == 0, err
        payloads.append(json.loads(out))
        for key in ("seconds", "tokens_per_second", "output", "output_bytes"):
            del payloads[-1][key]
    assert payloads[0] == payloads[1]
    for file in (tmp_path / "a").glob("*.npy"):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_hash_of_a_corpus_wants_its_tokenizer_and_no_options_of_texts(folder):
    for word in ("--eos", "--no-eos"):
        run("hash", folder, word, "--json").error(2)
    error = run("hash", folder, "-t", WORD, "--json").error(5)
    assert "not the one that the tokens were made with" in error["message"]
