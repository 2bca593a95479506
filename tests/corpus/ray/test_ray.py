"""Work on Ray: the bytes of the local engine, also when a worker is killed; what cannot work."""

from __future__ import annotations

import os
import signal
import socket
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from engram.addressing.tokenizer_files import load_tokenizer
from engram.config.engram_config import EngramConfig
from engram.corpus.building.build_corpus import build_corpus
from engram.corpus.building.local_engine import WorkerLostError
from engram.corpus.building.unit_work import UnitTask
from engram.corpus.counts.statistics import Statistics
from engram.corpus.hash.hash_options import HashOptions
from engram.corpus.hash.hash_text import find_memory, plan_hash
from engram.corpus.ray import ray_engine
from engram.corpus.ray.ray_engine import RayEngine
from engram.corpus.text.readers import TextReader
from engram.corpus.text.sources import find_sources
from engram.corpus.text.text_options import TextOptions
from engram.corpus.tokens.tokenise import TokenBatch, tokenise
from engram.errors import InputError, MismatchError, MissingError, MissingFileError, UsageError
from support.cli import run_apart
from support.corpora import TEXT, digests, text_file
from support.named_pipe import NamedPipe
from support.paths import BPE

# Not imported here: what Ray prints is settled when it is.
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")


@pytest.fixture(scope="module")
def ray():
    """A Ray of two workers."""
    with RayEngine(workers=2) as engine:
        yield engine


def build(sources, folder, engine=None, **options):
    run = engine and engine.run_units
    tokenizer = load_tokenizer(str(BPE))
    rules = options.pop("rules", TextOptions())
    options = {"unit_bytes": 5000, "engine": run, **options}
    return build_corpus(sources, tokenizer, folder, rules, **options)


def test_bytes_are_those_of_the_local_engine(ray, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    text_file(tmp_path)
    sources, _ = find_sources("text.txt")
    build(sources, Path("local"))
    build(sources, Path("ray"), ray)
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["local", "ray", "text.txt"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_a_worker_killed_in_the_middle_changes_no_byte(ray, tmp_path, capfd):
    pipe = NamedPipe(tmp_path / "pipe", TEXT)
    (whole,), _ = find_sources(text_file(tmp_path))
    sources = [whole, pipe.source]
    killed: list[int] = []

    def kill_one() -> None:
        killed.append(pipe.kill_reader())
        pipe.feed()

    for name, engine, act in (("local", None, pipe.feed), ("ray", ray, kill_one)):
        thread = threading.Thread(target=act)
        thread.start()
        build(sources, tmp_path / name, engine)
        thread.join()
    assert len(killed) == 1
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
    assert capfd.readouterr() == ("", "")


def test_a_cluster_at_an_address(ray, tmp_path, monkeypatch):
    from ray import get_runtime_context

    monkeypatch.chdir(tmp_path)
    path = text_file(tmp_path)
    words = ("corpus", "build", path.name, "-t", BPE)
    address = ["--engine", "ray", "--address", get_runtime_context().gcs_address]
    for name, engine in (("local", []), ("ray", address)):
        assert run_apart(*words, "-o", name, "--json", *engine).json()["engine"] == name
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")


def test_a_task_that_always_loses_its_worker_is_given_up(ray):
    def always_lost():
        yield 0
        os.kill(os.getpid(), signal.SIGKILL)

    impatient = RayEngine(retries=1)
    with impatient, pytest.raises(WorkerLostError, match="given up after 1 retries"):
        list(next(impatient._streams(always_lost, [()])))


def test_what_a_worker_lacks_is_named(ray, tmp_path, monkeypatch):
    def imports_what_is_not_there():
        import no_such_module

        yield no_such_module

    path = text_file(tmp_path)
    sources, _ = find_sources(path)
    with pytest.raises(MissingError, match="no_such_module"):
        list(next(ray._streams(imports_what_is_not_there, [()])))
    path.rename(tmp_path / "away.txt")
    task = UnitTask(0, tuple(sources), TextOptions(), str(BPE), "", tmp_path)
    with pytest.raises(MissingFileError, match=r"worker on .* does not see .*text\.txt") as caught:
        list(next(ray.encode_units([task])))
    assert "every node" in caught.value.hint
    monkeypatch.setattr(ray_engine, "__version__", "9.9")
    with pytest.raises(MismatchError, match="this command is 9.9"):
        list(next(ray._streams(range, [(1,)])))


def test_errors_of_a_worker_arrive_whole(ray, tmp_path):
    path = text_file(tmp_path)
    path.write_bytes(TEXT.encode() + b"bad \xff")
    sources, _ = find_sources(path)
    line = TEXT.count("\n") + 1
    with pytest.raises(InputError, match=rf"text\.txt:{line}: byte ") as caught:
        build(sources, tmp_path / "out", ray)
    assert caught.value.details["line"] == line
    built = build(sources, tmp_path / "out", resume=True, rules=TextOptions(on_error="skip"))
    assert built.resumed_units > 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "text.txt"]


def test_addresses_without_a_ray(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    for address in (f"127.0.0.1:{port}", "nonsense", "nowhere:port"):
        engine = RayEngine(address)
        with pytest.raises(MissingError, match=f"not running at {address}: ") as caught, engine:
            pass
        assert "ray start --head" in caught.value.hint
    with pytest.raises(UsageError, match="Ray Client"):
        RayEngine("ray://127.0.0.1:10001")


def test_standard_input_stays_here(ray, tmp_path):
    with pytest.raises(UsageError, match="standard input"):
        build(find_sources("-")[0], tmp_path / "out", ray)
    assert not list(tmp_path.iterdir())


# --- statistics and hash ids ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def memory():
    """A memory with two layers."""
    values = {"engram_vocab_size": 544, "k": 3, "pad_id": 2, "layer_ids": [3, 1]}
    shape = {"hidden_size": 8, "n_embed_per_ngram": 8, "n_head_per_ngram": 4}
    return EngramConfig(tokenizer=str(BPE), **values, **shape)


@pytest.mark.parametrize("most_distinct", [2**24, 100])
def test_merged_statistics_are_those_of_one_pass(ray, memory, tmp_path, monkeypatch, most_distinct):
    monkeypatch.setattr(ray_engine, "_PIECE_TOKENS", 3000)
    _, tokenizer, addresses = find_memory(memory)
    alone, merged = (Statistics(addresses, most_distinct=most_distinct) for _ in range(2))
    batches = list(tokenise(TextReader(text_file(tmp_path)), tokenizer))
    long = TokenBatch(batches[0].tokens, batches[0].boundaries[[0, -1]], 0)
    for batch in [*batches, long]:
        alone.add(batch)
    ray.count(iter([*batches, long]), merged)
    assert merged.layers() == alone.layers()
    assert merged.growth() == alone.growth()
    assert len(merged.growth()[0].points) > 10
    kinds = {head.kind for layer in merged.layers() for head in layer.heads}
    assert kinds == ({"exact"} if most_distinct == 2**24 else {"estimated"})


def test_hashing_gives_the_numbers_and_bytes_of_the_local_engine(
    ray, memory, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(ray_engine, "_PIECE_TOKENS", 3000)
    path = text_file(tmp_path)
    path.write_bytes(TEXT.encode() + b"\n\nbad \xff\n\n" + TEXT.encode())
    found = []
    counted = {"on_error": "skip", "cache_curve": True, "cache_tokens": 500}
    for name, engine in (("local", None), ("ray", ray)):
        for output, form in ((None, {}), (tmp_path / name, {"shard_tokens": 4000})):
            options = HashOptions(**counted, **form)
            plan = plan_hash(path, memory, output=output, options=options)
            hashed = replace(plan, unit_bytes=5000).run(engine=engine).counts
            found.append(replace(hashed, seconds=0.0, written_bytes=0))
    assert found[0].notes.skipped == 1
    assert found.count(found[0]) == 4
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
    assert capfd.readouterr() == ("", "")
