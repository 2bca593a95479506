"""Building a corpus: units, the same bytes for any workers and after any interruption, resuming."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from engram.addressing.tokenizer_files import load_tokenizer
from engram.corpus.building import build_corpus as build_module
from engram.corpus.building import local_engine, unit_work
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.building.local_engine import WorkerLostError
from engram.corpus.building.units import plan_units
from engram.corpus.results.work_folder import work_folder
from engram.corpus.text.readers import TextReader
from engram.corpus.text.sources import find_sources
from engram.corpus.text.text_options import TextOptions
from engram.errors import (
    DoesNotFitError,
    InputError,
    MismatchError,
    MissingPackageError,
    UsageError,
)
from engram.storage.staging import claim
from support.corpora import TEXT, build_small, digests, text_file
from support.named_pipe import NamedPipe
from support.paths import BPE, TESTS, WORD

EOS = 1


def documents(folder: Path) -> list[list[int]]:
    manifest = json.loads((folder / "manifest.json").read_text())
    found = []
    for shard in manifest["shards"]:
        tokens = np.load(folder / shard["tokens_file"], allow_pickle=False)
        bounds = np.load(folder / shard["documents_file"], allow_pickle=False)
        assert (tokens.dtype, bounds.dtype) == ("<u2", "<i8")
        found += [tokens[start:end].tolist() for start, end in pairwise(bounds)]
    return found


def expected_documents(where, *, eos=True, **options) -> list[list[int]]:
    encode = load_tokenizer(str(BPE)).tokenizer.encode
    texts = [text for block in TextReader(where, TextOptions(**options)) for text in block.texts]
    return [[*encode(t, add_special_tokens=False).ids, *[EOS] * eos] for t in texts]


def test_an_empty_list_of_texts_is_said_to_be_empty(tmp_path):
    with pytest.raises(UsageError, match="list of texts is empty"):
        build_corpus([], str(BPE), tmp_path / "o")
    assert not list(tmp_path.iterdir())


# --- units ------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["paragraph", "line", "file"])
@pytest.mark.parametrize("unit_bytes", [1, 7, 300, 10**9])
def test_units_hold_the_documents_of_the_text(tmp_path, split, unit_bytes):
    rng = random.Random(2)
    pieces = ["a", "é", "字", " ", "\t", "\r", "\n", "\n\n", "\n \n", "b c"]
    for name in ("1.txt", "2.txt", "4.txt"):
        text_file(tmp_path, name, "\n \n" + "".join(rng.choices(pieces, k=900)))
    records = (json.dumps({"text": f"record {i}"}) for i in range(90))
    text_file(tmp_path, "3.jsonl", "\n".join(records))
    (tmp_path / "5.txt.gz").write_bytes(gzip.compress(b"one\n\ntwo"))
    sources, _ = find_sources(tmp_path)
    units = plan_units(sources, split, unit_bytes)
    found = [
        text
        for unit in units
        for block in TextReader(unit, TextOptions(split=split)).blocks()
        for text in block.texts
    ]
    assert found == [
        text for block in TextReader(tmp_path, TextOptions(split=split)) for text in block.texts
    ]
    assert sum(source.size_bytes for unit in units for source in unit) == sum(
        s.size_bytes for s in sources
    )
    assert (len(units) == 1) == (unit_bytes == 10**9)


def test_units_of_parquet_are_row_groups(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    texts = [f"text {i} " * 9 for i in range(1000)]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": range(1000), "text": texts}), path, row_group_size=100)
    units = plan_units(find_sources(path)[0], "paragraph", path.stat().st_size // 4)
    assert 3 <= len(units) <= 5
    readers = [TextReader(unit) for unit in units]
    blocks = [block for reader in readers for block in reader.blocks()]
    assert [text for block in blocks for text in block.texts] == texts
    assert blocks[-1].position(0).startswith(f"{path}:")
    assert int(blocks[-1].position(0).rpartition(":")[2]) == 1001 - len(blocks[-1].texts)
    build_small(path, tmp_path / "out")
    assert documents(tmp_path / "out") == expected_documents(path)


def test_a_row_without_text_is_named(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["one", None, "three"], "n": [1, 2, 3]}), path)
    with pytest.raises(InputError, match=r"rows\.parquet:2: 'text' is null"):
        build_small(path, tmp_path / "out")
    manifest = build_small(path, tmp_path / "out", on_error="skip").manifest
    assert manifest["counts"]["skipped"] == 1
    assert len(documents(tmp_path / "out")) == 2
    with pytest.raises(InputError, match="no column 'body'; its columns are 'text', 'n'"):
        build_small(path, tmp_path / "other", text_key="body")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="truncated or not a parquet"):
        build_small(path, tmp_path / "other")


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = text_file(tmp_path, "rows.parquet")
    with pytest.raises(MissingPackageError, match="pyarrow"):
        build_small(path, tmp_path / "out")


# --- what is built ----------------------------------------------------------------------------


@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize("split", ["paragraph", "line", "file"])
def test_documents_are_those_of_the_text(tmp_path, eos, split):
    path = text_file(tmp_path)
    built = build_small(path, tmp_path / "out", split=split, add_eos=eos, shard_tokens=3000)
    assert documents(tmp_path / "out") == expected_documents(path, split=split, eos=eos)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest == built.manifest
    assert manifest["schema"] == "engram.corpus/1"
    assert manifest["tokenizer"]["sha256"] == load_tokenizer(str(BPE)).digest
    assert manifest["tokenizer"]["eos_id"] == (EOS if eos else None)
    files = {f.name: f for f in (tmp_path / "out").iterdir() if f.name != "manifest.json"}
    assert [file["name"] for file in manifest["files"]] == sorted(files)
    for file in manifest["files"]:
        data = files[file["name"]].read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert (len(manifest["shards"]) > 1) == (len(manifest["units"]) > 1) == (split != "file")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out", "text.txt"]


def test_bytes_do_not_depend_on_workers(tmp_path):
    paths = [text_file(tmp_path, "a.txt"), text_file(tmp_path, "b.txt", TEXT[:9000])]
    for workers in (1, 2, 3):
        build_small(paths, tmp_path / f"{workers}", workers=workers, unit_bytes=9000)
    assert digests(tmp_path / "1") == digests(tmp_path / "2") == digests(tmp_path / "3")


def test_a_process_with_other_threads_is_not_forked(monkeypatch):
    monkeypatch.delitem(sys.modules, "gigatoken", raising=False)
    monkeypatch.setattr(local_engine.threading, "active_count", lambda: 1)
    assert local_engine._may_fork() == (sys.platform == "linux")
    with monkeypatch.context() as patch:
        patch.setattr(local_engine.threading, "active_count", lambda: 2)
        assert not local_engine._may_fork()
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    assert not local_engine._may_fork()


_FORKED = """
import json, logging, os, signal, sys
from pathlib import Path
from engram.corpus.building import local_engine
from engram.corpus.building.build_corpus import build_corpus

text, tokenizer, folder = sys.argv[1:]
files = [open(f"{folder}/log-{number}", "w") for number in range(20)]
for file in files:
    logging.getLogger().addHandler(logging.StreamHandler(file))
signal.signal(signal.SIGTERM, lambda number, frame: None)
encode = local_engine.encode_unit

def watched(task):
    for batch in encode(task):
        logging.warning("a line that belongs in no unit")
        yield batch
    handled = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    Path(folder, f"unit-{task.index}.json").write_text(json.dumps([os.getpid(), handled]))

local_engine.encode_unit = watched
build_corpus(text, tokenizer, folder + "/out", workers=2, unit_bytes=9000)
print(os.getpid())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no forks for this")
def test_forks_do_not_touch_what_their_parent_has(tmp_path):
    path, tokenizer = text_file(tmp_path, text=TEXT * 60), BPE
    build_corpus(path, str(tokenizer), tmp_path / "alone", unit_bytes=9000)
    words = [sys.executable, "-c", _FORKED, str(path), str(tokenizer), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=100)
    notes = [json.loads(it.read_text()) for it in tmp_path.glob("unit-*.json")]
    workers = {pid for pid, _ in notes}
    assert len(notes) > 2
    assert workers
    assert int(done.stdout) not in workers
    assert not any(handled for _, handled in notes)
    assert all(not it.read_text() for it in tmp_path.glob("log-*"))
    assert digests(tmp_path / "alone") == digests(tmp_path / "out")


def test_a_short_text_is_cut_into_more_units_which_the_job_says(tmp_path):
    path = text_file(tmp_path, text="A line of text.\n\n" * 2**19)
    plan = build_module.plan_build(path, str(BPE), tmp_path / "out")
    assert plan.job()["unit_bytes"] == 2**19
    assert len(plan.tasks(tmp_path)) == 17
    few = replace(plan, unit_bytes=2**12)
    assert few.job()["unit_bytes"] == 2**12


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_moves_within_units_and_begins_where_an_earlier_run_ended(tmp_path, workers):
    path = text_file(tmp_path, text=TEXT * 60)
    size, seen = path.stat().st_size, []
    assert size > 2.5 * 2**20

    def step(done, total):
        seen.append(done)
        assert total == size

    options = {"unit_bytes": size * 2 // 3, "workers": workers, "progress": step}
    assert len(build_small(path, tmp_path / "out", **options).manifest["units"]) == 2
    assert seen[0] == 0
    assert seen[-1] == size
    assert seen == sorted(set(seen))
    if workers == 1:
        assert len([done for done in seen if 0 < done < size * 2 // 3]) >= 1
    seen.clear()

    def stop(done, _total):
        if done == size:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_small(path, tmp_path / "two", **{**options, "workers": 1, "progress": stop})
    assert build_small(path, tmp_path / "two", resume=True, **options).resumed_units == 1
    assert seen[0] > size // 2
    assert seen[-1] == size


def test_skipped_documents_are_named_by_line_in_every_unit(tmp_path):
    path = tmp_path / "text.txt"
    text = TEXT.encode()
    path.write_bytes(text + b"\n\nbad \xff\n\n" + text)
    line = text.count(b"\n") + 3
    with pytest.raises(InputError, match=rf"text\.txt:{line}: byte "):
        build_small(path, tmp_path / "out", workers=2)
    work = work_folder(tmp_path / "out")
    assert work.exists()
    manifest = build_small(path, tmp_path / "out", resume=True, on_error="skip").manifest
    assert manifest["counts"]["skipped"] == 1
    assert f":{line}: " in manifest["problems"][0]
    assert not work.exists()


def test_no_text(tmp_path):
    with pytest.raises(InputError, match="no text in"):
        build_small(text_file(tmp_path, "empty.txt", ""), tmp_path / "out")
    with pytest.raises(InputError, match=r"no text in .*blank\.jsonl"):
        build_small(text_file(tmp_path, "blank.jsonl", "\n\n"), tmp_path / "out")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["blank.jsonl", "empty.txt"]


# --- interrupted and resumed --------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.corpora import build_small
if __name__ == "__main__":
    step = lambda done, total: print(done, flush=True)
    build_small(Path(sys.argv[1]), Path(sys.argv[2]), workers=int(sys.argv[3]), resume=True,
          progress=step)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_resumed_is_the_same(tmp_path, workers):
    path = text_file(tmp_path, text=TEXT * 4)  # workers run ahead of what is said
    build_small(path, tmp_path / "whole")
    script = tmp_path / "run.py"
    script.write_text(RUN.format(tests=str(TESTS)))
    words = [sys.executable, str(script), str(path), str(tmp_path / "out"), str(workers)]
    rng = random.Random(workers)
    kills = 0
    for _ in range(3):
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            resumed = int(process.stdout.readline())
            # The last unit that was read may not be written.
            goal = resumed + 5100 * rng.randrange(2, 4)
            while int(process.stdout.readline()) < goal:
                pass
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
        assert not (tmp_path / "out").exists()
    assert kills == 3
    built = build_small(path, tmp_path / "out", resume=True)
    assert 3 <= built.resumed_units < len(built.manifest["units"])
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out", "run.py", "text.txt", "whole"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_a_lost_worker_is_said_and_its_work_resumed(tmp_path):
    pipe = NamedPipe(tmp_path / "pipe", TEXT)
    sources = [*find_sources(text_file(tmp_path))[0], pipe.source]

    def run(name, act, **options):
        thread = threading.Thread(target=act)
        thread.start()
        tokenizer, folder = load_tokenizer(str(BPE)), tmp_path / name
        options = {"unit_bytes": 5000, **options}
        try:
            return build_corpus(sources, tokenizer, folder, TextOptions(), **options)
        finally:
            thread.join()

    run("whole", pipe.feed)
    with pytest.raises(WorkerLostError, match="was killed") as caught:
        run("out", pipe.kill_reader, workers=2)
    assert "--resume" in caught.value.hint
    assert not (tmp_path / "out").exists()
    assert run("out", pipe.feed, workers=2, resume=True).resumed_units > 0
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_while_shards_are_written(tmp_path, monkeypatch, error):
    path = text_file(tmp_path)
    build_small(path, tmp_path / "whole")

    def break_off(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "write_manifest", break_off)
        with pytest.raises(DoesNotFitError if isinstance(error, OSError) else error):
            build_small(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    os.close(claim(tmp_path / ".out.0123abcd.part"))  # as a kill at this moment leaves it
    built = build_small(path, tmp_path / "out", resume=True)
    assert built.resumed_units == len(built.manifest["units"])
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out", "text.txt", "whole"]


def interrupted(path: Path, folder: Path, after: int = 3) -> Path:
    def stop(done, _total):
        # What was read is not written yet.
        if done >= (after + 1) * 5000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_small(path, folder, progress=stop)
    return work_folder(folder)


@pytest.mark.parametrize("kind", ["tokens", "lengths", "json"])
def test_torn_units_are_done_again(tmp_path, kind):
    path = text_file(tmp_path)
    build_small(path, tmp_path / "whole")
    work = interrupted(path, tmp_path / "out")
    torn = work / f"unit-000001.{kind}"
    torn.write_bytes(torn.read_bytes()[:-2])
    assert build_small(path, tmp_path / "out", resume=True).resumed_units == 2
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_an_unfinished_build_is_neither_lost_nor_mixed_up(tmp_path):
    path = text_file(tmp_path)
    work = interrupted(path, tmp_path / "out")
    with pytest.raises(InputError, match="unfinished build") as caught:
        build_small(path, tmp_path / "out")
    assert "--resume" in caught.value.hint
    with pytest.raises(InputError, match="was started with split paragraph, not line"):
        build_small(path, tmp_path / "out", resume=True, split="line")
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match=r"other inputs \(.*text.txt has changed since\)"):
        build_small(path, tmp_path / "out", resume=True)
    assert work.exists()
    built = build_small(path, tmp_path / "out", overwrite=True)
    assert (built.resumed_units, work.exists()) == (0, False)


def test_an_unfinished_build_of_another_tokenizer_or_with_a_damaged_record(tmp_path):
    path = text_file(tmp_path)
    work = interrupted(path, tmp_path / "out")
    changed = replace(load_tokenizer(str(BPE)), digest="0" * 64)
    options = TextOptions(add_eos=False)
    for other, message in (
        (WORD, f"was started with tokenizer {BPE}, not {WORD}; end-of-text tokens yes, not no"),
        (changed, f"was started with another tokenizer with the name {BPE}; end-of-text"),
    ):
        with pytest.raises(InputError, match=message):
            build_corpus(path, other, tmp_path / "out", options, unit_bytes=5000, resume=True)
    (work / "job.json").write_text("{")
    with pytest.raises(InputError, match=r"job\.json is damaged: it does not tell how"):
        build_small(path, tmp_path / "out", resume=True)
    assert build_small(path, tmp_path / "out", overwrite=True).resumed_units == 0


def test_two_builds_at_once_are_refused(tmp_path):
    path = text_file(tmp_path)

    def second(_done, _total):
        with pytest.raises(InputError, match="Another process is building"):
            build_small(path, tmp_path / "out", resume=True)

    build_small(path, tmp_path / "out", progress=second)


def test_a_finished_corpus_is_recognised(tmp_path):
    path = text_file(tmp_path)
    work = interrupted(path, tmp_path / "out")
    shutil.copytree(work, left := tmp_path / "left")
    build_small(path, tmp_path / "out", resume=True)
    before = digests(tmp_path / "out")
    left.rename(work)  # as a kill at the very end leaves it
    assert build_small(path, tmp_path / "out", resume=True).was_finished
    assert not work.exists()
    with pytest.raises(InputError, match="is there already"):
        build_small(path, tmp_path / "out", resume=True, split="line")
    assert digests(tmp_path / "out") == before
    assert not build_small(path, tmp_path / "out", overwrite=True, split="line").was_finished
    assert digests(tmp_path / "out") != before


def test_what_is_in_the_way_is_left_alone(tmp_path):
    path = text_file(tmp_path)
    work = work_folder(tmp_path / "out")
    work.mkdir()
    (work / "mine").write_text("mine")
    with pytest.raises(InputError, match="is in the way"):
        build_small(path, tmp_path / "out", overwrite=True)
    assert (work / "mine").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_root_of_the_files_is_refused(tmp_path, overwrite):
    with pytest.raises(InputError, match="^/ is there already"):
        build_small(text_file(tmp_path), Path("/"), overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_in_the_way_is_refused_and_its_folder_stays(tmp_path, overwrite):
    path = text_file(tmp_path)
    other = interrupted(path, tmp_path / "other")
    before = {file: file.read_bytes() for file in other.rglob("*") if file.is_file()}
    work_folder(tmp_path / "out").symlink_to(other)
    for resume in (False, True):
        with pytest.raises(InputError, match="is in the way"):
            build_small(path, tmp_path / "out", resume=resume, overwrite=overwrite)
    assert {file: file.read_bytes() for file in other.rglob("*") if file.is_file()} == before


def test_what_a_kill_before_the_first_unit_leaves_blocks_nothing(tmp_path):
    path = text_file(tmp_path)
    build_small(path, tmp_path / "whole")
    work = work_folder(tmp_path / "out")
    for resume in (False, True):
        for leave in (work.mkdir, lambda: os.close(claim(work))):
            leave()
            build_small(path, tmp_path / "out", resume=resume)
            assert digests(tmp_path / "out") == digests(tmp_path / "whole")
            assert not work.exists()
            shutil.rmtree(tmp_path / "out")


def test_a_tokenizer_that_changes_between_builds_is_read_again(tmp_path):
    path, folder = text_file(tmp_path), shutil.copytree(BPE, tmp_path / "tokenizer")
    before = build_corpus(path, folder, tmp_path / "one").manifest["tokenizer"]
    settings = folder / "tokenizer_config.json"
    values = json.loads(settings.read_text())
    settings.write_text(json.dumps({**values, "extra_special_tokens": ["<new>"]}))
    after = build_corpus(path, folder, tmp_path / "two").manifest["tokenizer"]
    assert after["vocab_size"] == before["vocab_size"] + 1


def test_a_tokenizer_that_changed_is_refused(tmp_path, monkeypatch):
    unit_work.loaded_tokenizer.cache_clear()
    word = load_tokenizer(str(WORD))
    monkeypatch.setattr(unit_work, "load_tokenizer", lambda _name: word)
    with pytest.raises(MismatchError, match="not the one that the tokens were made with"):
        build_small(text_file(tmp_path), tmp_path / "out")
