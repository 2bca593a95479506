"""Digests of an attached folder: single flipped bits are noticed, and nothing else is."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

import engram
from engram.checkpoints.attach import attach
from engram.checkpoints.attach.detach import detach
from engram.checkpoints.convert.convert import convert
from engram.checkpoints.read.digests import read_digests
from engram.checkpoints.read.open_checkpoint import open_checkpoint
from engram.checkpoints.verify.verify import verify
from engram.errors import CorruptFileError, MissingError
from engram.storage.files import sha256_of
from support import tiny
from support.cli import run


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tiny.base_model("llama", tmp_path_factory.mktemp("digests") / "base")
    (folder / "README.md").write_text("the base's own card")
    (folder / ".gitattributes").write_text("*.safetensors lfs")
    return folder


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """The same memory attached with and without digests of weights, and as an adapter."""
    root = tmp_path_factory.mktemp("made")
    config = tiny.memory_config()
    attach.attach(base, config, root / "plain")
    attach.attach(base, config, root / "full", digests=True)
    attach.attach(base, config, root / "adapter", adapter=True, digests=True)
    attach.attach(base, config, root / "linked", link=True, digests=True)
    return root


def recorded(folder):
    return read_digests(open_checkpoint(folder))


def verdicts(folder, **options):
    checks = verify(folder, headers_only=True, **options)
    return {check.name: check.ok for check in checks if check.name.endswith(" files")}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_is_recorded_is_what_the_files_hold(made, base):
    found = recorded(made / "full")
    weights = {path.name for path in (made / "full").glob("*.safetensors")}
    assert set(found["weight_files"]) == weights
    assert found["weight_files"] == recorded(made / "linked")["weight_files"]
    assert recorded(made / "plain").get("weight_files") is None
    for name, digest in {**found["small_files"], **found["weight_files"]}.items():
        assert sha256_of(made / "full" / name) == digest
    names = {"modeling_engram.py", "tokenizer.json", ".gitattributes", "engram_base/config.json"}
    assert names < set(found["small_files"])


def test_verify_says_so_and_what_was_not_recorded(made):
    assert verdicts(made / "plain") == {"small files": True}
    assert verdicts(made / "plain", full=True) == {"small files": True, "weight files": None}
    for name in ("full", "linked", "adapter"):
        assert verdicts(made / name, full=True) == {"small files": True, "weight files": True}


def test_every_flip_is_noticed(made, tmp_path):
    found = recorded(made / "full")
    for number, name in enumerate([*found["small_files"], *found["weight_files"]]):
        folder = shutil.copytree(made / "full", tmp_path / str(number))
        flip(folder / name)
        kind = "small files" if name in found["small_files"] else "weight files"
        assert verdicts(folder, full=True)[kind] is False, name
        with pytest.raises(CorruptFileError, match="sha256 differs") as refused:
            detach(folder, tmp_path / "again")
        assert refused.value.details["files"] == [name]
        assert not (tmp_path / "again").exists()


def test_a_small_file_that_is_gone_is_noticed(made, tmp_path):
    folder = shutil.copytree(made / "plain", tmp_path / "copy")
    (folder / "modeling_engram.py").unlink()
    assert verdicts(folder) == {"small files": False}


def test_the_card_may_be_edited(made, tmp_path):
    folder = shutil.copytree(made / "full", tmp_path / "copy")
    (folder / "README.md").write_text("my own words")
    assert verdicts(folder) == {"small files": True}
    detach(folder, tmp_path / "again")


@pytest.mark.parametrize("tables", ["ram", "disk"])
def test_a_folder_that_was_saved_anew_is_no_false_alarm(made, tmp_path, tables):
    model = engram.load(made / "full", tables=tables)
    model.save_pretrained(tmp_path / "saved")
    assert verdicts(tmp_path / "saved", full=True) == {"small files": None, "weight files": None}
    over = shutil.copytree(made / "full", tmp_path / "over")
    engram.load(over).save_pretrained(over)
    assert verdicts(over, full=True) == {"small files": None, "weight files": None}


def test_a_converted_folder_keeps_what_is_still_right(made, base, tmp_path):
    convert(made / "full", tmp_path / "int8", dtype="int8")
    assert verdicts(tmp_path / "int8", full=True) == {"small files": True, "weight files": None}
    detach(tmp_path / "int8", tmp_path / "again")
    assert (tmp_path / "again" / ".gitattributes").is_file()


def test_digests_of_another_form_are_damage(made, tmp_path):
    file = shutil.copytree(made / "plain", tmp_path / "copy") / "config.json"
    config = json.loads(file.read_text())
    for wrong in ("text", {"small_files": ["x"]}, {"small_files": {"../../etc/passwd": "0" * 64}}):
        config["engram"]["sha256"] = wrong
        file.write_text(json.dumps(config))
        assert verdicts(file.parent) == {"small files": False}
        with pytest.raises(CorruptFileError, match="engram.sha256"):
            detach(file.parent, tmp_path / "again")


def test_rows_appear_as_they_are_done(made, monkeypatch):
    seen = []

    def look(target, on_check, **options):
        def tell_and_look(check):
            on_check(check)
            seen.append((check.name, sys.stdout.buffer.getvalue().decode()))

        return verify(target, on_check=tell_and_look, **options)

    monkeypatch.setattr(engram, "verify", look)
    done = run("verify", made / "plain", "--headers-only").ended()
    assert len(seen) > 5
    for name, text in seen:
        assert text.splitlines()[-1].startswith(name)
    assert "wired right" in done.stdout


def test_what_headers_tell_is_shown_before_packages_are_imported(made, monkeypatch):
    def fail():
        raise MissingError("no torch")

    monkeypatch.setattr("engram.hf.compat.check", fail)
    seen = []
    with pytest.raises(MissingError, match="no torch"):
        verify(made / "plain", on_check=lambda check: seen.append(check.name))
    assert seen[0] == "fingerprint"
    assert seen[-1] == "base config"
