"""Outputs of conversions to GGUF: parts, continued runs, and what is never replaced."""

from __future__ import annotations

import errno
import json
import shutil

import pytest

from engram.checkpoints.convert.convert import convert
from engram.errors import (
    DoesNotFitError,
    InputError,
)
from engram.storage import unfinished
from engram.storage.gguf_headers import read_gguf
from support.cli import run as cli
from support.converted import run
from support.gguf_conversions import demand_right
from support.paths import BPE

# By case: the source, the target, the output, the dtype and another one.
RUNS = {
    "one file": ("released", "gguf_ds4", "out.gguf", None, None),
    "parts": ("attached", "gguf_llama", "parts", "q8_0", "bfloat16"),
    "published names": ("attached", "deepseek_v41", "folder", None, "bfloat16"),
    "attached": ("attached", "attached", "folder", "fp8", "int8"),
}


def _files(output):
    """Contents of what was written, whatever the output is called."""
    paths = [output] if output.is_file() else sorted(output.iterdir())
    return [path.read_bytes() for path in paths if path.suffix in (".gguf", ".safetensors")]


@pytest.mark.parametrize("case", RUNS)
def test_a_run_that_was_interrupted_is_continued(case, request, tmp_path, monkeypatch):
    source, to, name, dtype, other = RUNS[case]
    source, options = request.getfixturevalue(source), {"tokenizer": None}
    if to.startswith("gguf"):
        options["tokenizer"] = BPE
    for module in ("gguf_tensors", "recoded"):
        monkeypatch.setattr(f"engram.checkpoints.convert.{module}._CHUNK_VALUES", 2**13)
    monkeypatch.setattr("engram.checkpoints.convert.gguf_conversion.MAX_PART_BYTES", 100_000)
    monkeypatch.setattr(unfinished, "SYNC_BYTES", 20_000)
    steps = []
    whole = run(
        source,
        tmp_path / f"whole-{name}",
        to,
        dtype=dtype,
        **options,
        progress=lambda done, total: steps.append(done),
    )
    output, hidden = tmp_path / name, tmp_path / f".{name}.unfinished"

    def stop(done, total):
        if done > 0.6 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, output, to, dtype=dtype, **options, progress=stop)
    assert not output.exists()
    assert hidden.is_dir()
    with pytest.raises(InputError, match="Continue with --resume") as error:
        convert(source, output, to, dtype=dtype, **options)
    assert "unfinished run" in str(error.value)
    if other is not None:
        with pytest.raises(InputError, match="started with other files"):
            convert(source, output, to, dtype=other, **options, resume=True)
    written = []
    again = run(
        source,
        output,
        to,
        dtype=dtype,
        **options,
        resume=True,
        progress=lambda done, total: written.append((done, total)),
    )
    assert written[-1][0] == written[-1][1]
    assert 0 < len(written) < 0.8 * len(steps)
    assert not hidden.exists()
    assert again.losses() == whole.losses()
    assert [len(content) for content in _files(output)] == [
        len(content) for content in _files(tmp_path / f"whole-{name}")
    ]
    if case != "parts":
        assert _files(output) == _files(tmp_path / f"whole-{name}")


def test_parts_begin_with_metadata_alone(released, tmp_path, monkeypatch):
    monkeypatch.setattr("engram.checkpoints.convert.gguf_conversion.MAX_PART_BYTES", 100_000)
    made = run(released, tmp_path / "model", "gguf_ds4", tokenizer=BPE)
    record, *names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert record == "engram-parts.json"
    assert names[0] == f"model-00001-of-{len(names):05}.gguf"
    assert len(names) > 3
    first, *others = (read_gguf(tmp_path / "model" / name) for name in names)
    assert not first.tensors
    assert all(len(other.values) == 4 for other in others)
    assert [file["bytes"] for file in made.files()] == [
        (tmp_path / "model" / name).stat().st_size for name in names
    ]
    demand_right(tmp_path / "model", tokenizer=BPE)
    with pytest.raises(InputError, match="is there already"):
        convert(released, tmp_path / "model", "gguf_ds4", tokenizer=BPE)
    convert(tmp_path / "model" / names[2], tmp_path / "one.gguf", "gguf_ds4")
    convert(released, tmp_path / "model", "gguf_ds4", tokenizer=BPE, overwrite=True)
    (tmp_path / "model" / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not replaced"):
        convert(released, tmp_path / "model", "gguf_ds4", tokenizer=BPE, overwrite=True)


def test_folders_and_files_of_the_user_are_not_replaced(released, tmp_path):
    (tmp_path / "mine" / "photos").mkdir(parents=True)
    (tmp_path / "mine" / "photos" / "a.jpg").write_text("precious")
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "model-00001-of-00001.gguf").write_text("downloaded")
    for name in ("mine", "split"):
        with pytest.raises(InputError, match="not replaced"):
            convert(released, tmp_path / name, "gguf_ds4", tokenizer=BPE, overwrite=True)
    output = tmp_path / "late.gguf"
    with pytest.raises(InputError, match="already there"):
        convert(
            released,
            output,
            "gguf_ds4",
            tokenizer=BPE,
            progress=lambda done, total: output.write_text("precious"),
        )
    assert output.read_text() == "precious"


def test_no_part_of_what_is_read_is_written(released, tmp_path):
    convert(released, tmp_path / "model", "gguf_ds4", tokenizer=BPE)
    first, second = sorted((tmp_path / "model").glob("*.gguf"))
    before = second.read_bytes()
    for source, options in ((first, {}), (released, {"base": first, "tokenizer": BPE})):
        with pytest.raises(InputError, match="would be changed or lost"):
            convert(source, second, "gguf_tarruda", overwrite=True, **options)
    assert second.read_bytes() == before


def test_a_full_disk_is_no_reason_to_begin_anew(released, tmp_path, monkeypatch):
    monkeypatch.setattr("engram.checkpoints.convert.gguf_tensors._CHUNK_VALUES", 2**13)
    monkeypatch.setattr(unfinished, "SYNC_BYTES", 20_000)
    total = convert(released, tmp_path / "x.gguf", "gguf_ds4", tokenizer=BPE, dry_run=True)
    total = total.plan.written_bytes

    def full(done, total):
        if done > 0.6 * total:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DoesNotFitError):
        convert(released, tmp_path / "x.gguf", "gguf_ds4", tokenizer=BPE, progress=full)
    usage = shutil.disk_usage(tmp_path)
    free = 64 * 2**20 + total // 2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    convert(released, tmp_path / "x.gguf", "gguf_ds4", tokenizer=BPE, resume=True)
    demand_right(tmp_path / "x.gguf", tokenizer=BPE)


def test_an_output_that_is_a_link_stays_one(attached, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    convert(attached, tmp_path / "link", dtype="fp8")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "config.json").is_file()


def test_the_command_says_how_to_continue(attached, tmp_path, monkeypatch):
    monkeypatch.setattr("engram.checkpoints.convert.gguf_tensors._CHUNK_VALUES", 2**13)
    monkeypatch.setattr(unfinished, "SYNC_BYTES", 20_000)
    write, steps = unfinished.Place.write, []

    def stop(self, name, start, makers, step, digest=None):
        def counted(size):
            steps.append(size)
            if len(steps) == 12:
                raise KeyboardInterrupt
            step(size)

        write(self, name, start, makers, counted, digest)

    words = ("convert", attached, "-o", tmp_path / "x.gguf", "--to", "gguf_llama")
    with monkeypatch.context() as patch:
        patch.setattr(unfinished.Place, "write", stop)
        code, _, err = cli(*words, "--dtype", "q8_0")
    assert code == 130
    assert "continue with --resume" in err
    code, out, err = cli(*words, "--dtype", "q8_0", "--resume", "--json")
    assert code == 0, err
    assert json.loads(out)["dtype"] == "Q8_0"
    code, out, err = cli("convert", attached, "-o", tmp_path / "y", "--dtype", "q8_0")
    assert (code, "GGUF alone" in err) == (2, True)
    code, out, err = cli(*words[:-1], "gguf_llama", "--dtype", "q4_0")
    assert (code, "q8_0" in err) == (2, True)
