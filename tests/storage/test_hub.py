"""Asking the hub for single files: one that is not there is given up within seconds."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest
from huggingface_hub import constants, errors
from safetensors.numpy import save_file

import engram
from engram.checkpoints.read.model_folder import resolve_model
from engram.errors import CorruptFileError, MissingFileError
from engram.storage import hub
from engram.storage.safetensors_headers import SINGLE_FILE
from engram.storage.stored_on_hub import read_hub
from support.hub import Hub, serving


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """No server at the endpoint, and nothing in the cache."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


def test_the_reason_is_kept(no_hub):
    assert hub.probe("some/model", "config.json", None) is not None
    with pytest.raises(errors.LocalEntryNotFoundError) as caught:
        hub.fetch("some/model", "config.json", None)
    assert "refused" in hub.reason(caught.value)


def test_a_hub_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        problem = hub.probe("some/model", "config.json", None)
    assert "timed out" in str(problem)


def test_a_name_that_the_hub_cannot_have():
    with pytest.raises(errors.HFValidationError):
        hub.probe("not a name", "config.json", None)


@pytest.mark.parametrize("name", ["nope", "nope/nope"])
@pytest.mark.parametrize("read", [engram.load, resolve_model], ids=["load", "resolve_model"])
def test_a_model_that_is_nowhere_fails_at_once(no_hub, name, read):
    start = time.monotonic()
    with pytest.raises(MissingFileError, match="refused") as caught:
        read(name)
    assert time.monotonic() - start < 5
    assert caught.value.hint


def test_loading_what_is_not_there_imports_no_transformers(tmp_path):
    code = (
        "import sys, engram\n"
        "from engram.errors import CorruptFileError, MissingFileError\n"
        "try: engram.load('./nope')\n"
        "except MissingFileError: print('transformers' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


@pytest.fixture
def some_hub(tmp_path, monkeypatch):
    """A hub with one repository, whose file holds every byte once."""
    (tmp_path / "some" / "model").mkdir(parents=True)
    (tmp_path / "some" / "model" / "file").write_bytes(bytes(range(256)))
    with serving(Hub, tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def test_ranges_are_exact(some_hub):
    for first, stop in ((0, 8), (100, 101), (250, 256)):
        content = hub.read_range("some/model", "file", None, first, stop)
        assert content == bytes(range(first, stop))
        assert some_hub.sent[-1] == ("file", stop - first)
    assert hub.read_range("some/model", "file", None, 250, 300) == bytes(range(250, 256))
    assert hub.has_file("some/model", "file", None)
    assert not hub.has_file("some/model", "other", None)
    with pytest.raises(errors.EntryNotFoundError):
        hub.read_range("some/model", "other", None, 0, 1)


def test_a_hub_that_goes_away_after_its_headers_is_named(some_hub, monkeypatch):
    monkeypatch.setattr(hub, "RETRY_PAUSE_SECONDS", 0.01)
    save_file({"sizes": np.arange(3)}, some_hub.root / "some" / "model" / SINGLE_FILE)
    stored = read_hub("some/model", None, {})
    assert stored.integers("sizes") == [0, 1, 2]
    some_hub.server_close()
    some_hub.shutdown()
    with pytest.raises(MissingFileError, match="some/model could not be read from the hub"):
        stored.integers("sizes")


def test_other_bytes_than_those_asked_for_are_refused(some_hub, monkeypatch):
    monkeypatch.setattr(
        Hub,
        "send_header",
        lambda self, name, value: BaseHTTPRequestHandler.send_header(
            self, name, value.replace("bytes 5-", "bytes 4-")
        ),
    )
    with pytest.raises(CorruptFileError, match="bytes 5 to 8 were asked for, and .* bytes 4-8/256"):
        hub.read_range("some/model", "file", None, 5, 9)
    some_hub.ignores_ranges = True
    with pytest.raises(ConnectionError, match="whole files only"):
        hub.read_range("some/model", "file", None, 5, 9)


class FaultyHub(Hub):
    """Fails as `server.faults` says, one fault a request, before it answers."""

    def do_GET(self):
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            return self.fail(fault, {})
        if fault == "stalls":
            self.server.released.wait(20)
            return None
        if fault == "breaks off":
            self.send_response(206)
            self.send_header("Content-Length", "200")
            self.send_header("Content-Range", "bytes 10-209/256")
            self.end_headers()
            self.wfile.write(bytes(range(10, 60)))
            self.close_connection = True
            return None
        return super().do_GET()


@pytest.fixture
def faulty_hub(tmp_path, monkeypatch):
    (tmp_path / "some" / "model").mkdir(parents=True)
    (tmp_path / "some" / "model" / "file").write_bytes(bytes(range(256)))
    monkeypatch.setattr(hub, "RETRY_PAUSE_SECONDS", 0.01)
    with serving(FaultyHub, tmp_path) as server:
        server.faults, server.released = [], threading.Event()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server
        server.released.set()


@pytest.mark.parametrize("faults", [[429], [500, 503], ["stalls"], ["breaks off"], [502] * 3])
def test_a_range_is_asked_for_again(faulty_hub, monkeypatch, faults):
    monkeypatch.setattr(hub, "RANGE_SECONDS", 0.3)
    faulty_hub.faults = [*faults]
    assert hub.read_range("some/model", "file", None, 10, 210) == bytes(range(10, 210))
    assert faulty_hub.faults == []
    # Bytes that came before a connection broke are not asked for again.
    assert faulty_hub.sent == [("file", 150 if faults == ["breaks off"] else 200)]


def test_a_server_that_stays_in_trouble_is_given_up(faulty_hub, monkeypatch):
    monkeypatch.setattr(hub, "RANGE_SECONDS", 0.1)
    for fault in (503, "stalls"):
        faulty_hub.faults = [fault] * 9
        with pytest.raises(Exception, match="503|timed out"):
            hub.read_range("some/model", "file", None, 10, 210)
        assert len(faulty_hub.faults) == 9 - 1 - hub.RANGE_RETRIES
    faulty_hub.faults = [403] * 9
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        hub.read_range("some/model", "file", None, 10, 210)
    assert len(faulty_hub.faults) == 8, "a refusal does not pass"


class ShortHub(Hub):
    """Answers some bytes of a range, however many were asked for."""

    def answer(self, with_body):
        if "Range" in self.headers:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            last = min(last, first + 99)
            self.headers.replace_header("Range", f"bytes={first}-{last}")
        super().answer(with_body)


def test_short_answers_are_put_together(tmp_path, monkeypatch):
    (tmp_path / "some" / "model").mkdir(parents=True)
    (tmp_path / "some" / "model" / "file").write_bytes(bytes(range(256)))
    with serving(ShortHub, tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert hub.read_range("some/model", "file", None, 3, 256) == bytes(range(3, 256))
        assert [count for _, count in server.sent] == [100, 100, 53]
        for size in (256, None):
            content = hub.read_range("some/model", "file", None, 100, 900, size)
            assert content == bytes(range(100, 256))


def test_an_empty_answer_is_the_servers_fault(some_hub, monkeypatch):
    send = BaseHTTPRequestHandler.send_header

    def send_header(self, name, value):
        send(self, name, "0" if name == "Content-Length" else value)

    monkeypatch.setattr(Hub, "send_header", send_header)
    with pytest.raises(CorruptFileError, match=r"127\.0\.0\.1.*and the answer is empty") as caught:
        hub.read_range("some/model", "file", None, 5, 9)
    assert "unset HF_ENDPOINT" in caught.value.hint


def test_another_size_of_the_file_is_the_servers_fault(some_hub):
    assert hub.read_range("some/model", "file", None, 5, 9, 256) == bytes(range(5, 9))
    with pytest.raises(CorruptFileError, match=r"127\.0\.0\.1.*256 bytes, and it has 1,000"):
        hub.read_range("some/model", "file", None, 5, 9, 1000)


def test_a_server_that_states_no_size(some_hub, monkeypatch):
    send = BaseHTTPRequestHandler.send_header

    def send_header(self, name, value):
        send(self, name, value.replace("/256", "/*"))

    monkeypatch.setattr(Hub, "send_header", send_header)
    assert hub.read_range("some/model", "file", None, 5, 9) == bytes(range(5, 9))
    for size in (256, None):
        content = hub.read_range("some/model", "file", None, 250, 300, size)
        assert content == bytes(range(250, 256))
