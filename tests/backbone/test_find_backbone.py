"""Finding a base model in folders and on the hub; errors of wrong input name the key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engram.backbone import Backbone, load_backbone
from engram.errors import ConfigError, CorruptFileError, LayoutError, MissingFileError
from support.backbones import TINY, write_config


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ("{hidden_size: 3", CorruptFileError, "not JSON"),
        ("[1, 2]", CorruptFileError, "[1, 2], not an object"),
        ("[" * 100_000, CorruptFileError, "nested more than"),
        ({"model_type": "llama"}, ConfigError, "2 problems"),
        ({"model_type": "novel", "d_model": 8}, ConfigError, "num_hidden_layers"),
        ({"model_type": "novel", **TINY}, LayoutError, "'novel'"),
        (TINY, LayoutError, "cannot be counted"),
        ({**TINY, "model_type": "llama", "hidden_size": "48"}, ConfigError, "'48'"),
        ({**TINY, "model_type": "llama", "hidden_size": -48}, ConfigError, "-48"),
        ({**TINY, "model_type": "llama", "hidden_size": True}, ConfigError, "True"),
        ({**TINY, "model_type": "llama", "vocab_size": None}, ConfigError, "vocab_size"),
        ({**TINY, "model_type": "llama", "num_attention_heads": 0}, ConfigError, "heads"),
        ({**TINY, "model_type": "llama", "num_attention_heads": 5}, ConfigError, "divide"),
        ({**TINY, "model_type": "llama", "num_attention_heads": None}, ConfigError, "null"),
        ({**TINY, "model_type": "llama", "mlp_bias": "yes"}, ConfigError, "true or false"),
        ({**TINY, "model_type": "llama", "num_hidden_layers": 10**12}, ConfigError, "no model"),
        ({**TINY, "model_type": "mixtral", "num_experts_per_tok": 9}, ConfigError, "8 experts"),
        ({**TINY, "model_type": "qwen3_moe", "mlp_only_layers": 3}, ConfigError, "layer numbers"),
        ({**TINY, "model_type": ["llama"]}, LayoutError, "cannot be counted"),
    ],
)  # fmt: skip
def test_bad_configs_name_what_is_wrong(tmp_path, config, error, words):
    folder = write_config(tmp_path / "bad", config)
    with pytest.raises(error) as caught:
        load_backbone(folder)
    assert words in caught.value.message
    assert "bad" in caught.value.message
    assert caught.value.hint


def test_missing_folder_and_missing_config(tmp_path):
    for path, words in ((tmp_path / "none", "does not exist"), (tmp_path, "no config.json")):
        with pytest.raises(MissingFileError, match=words) as caught:
            load_backbone(str(path))
        assert caught.value.hint
    for path in ("./gpt2x", "/" + "n" * 5000):
        with pytest.raises(MissingFileError, match="does not exist"):
            load_backbone(path)


GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted."}


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        repo, _, rest = self.path.removeprefix("/").partition("/resolve/")
        body, status = json.dumps({"model_type": "llama", **TINY}).encode(), 200
        headers = {"ETag": '"etag"', "X-Repo-Commit": "c" * 40}
        if repo == "some/gated":
            body, status, headers = b"", 403, GATED
        elif repo == "some/files" and rest.endswith("config.json"):
            body, status, headers = b"", 404, {"X-Error-Code": "EntryNotFound"}
        elif repo == "some/broken":
            body, status, headers = b"", 500, {}
        elif repo != "some/model" and repo != "some/files":
            body, status, headers = b"", 404, {"X-Error-Code": "RepoNotFound"}
        elif not rest.startswith(("main/", "v1/")):
            body, status, headers = b"", 404, {"X-Error-Code": "RevisionNotFound"}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


ASK = """
import json, sys
from engram.backbone import load_backbone
from engram.errors import EngramError
answers = []
for name, revision in json.loads(sys.argv[1]):
    try:
        found = load_backbone(name, revision)
        answers.append([found.source, found.params])
    except EngramError as error:
        answers.append([error.code, error.message, error.hint])
print(json.dumps(answers))
"""


def ask(questions, home: Path, endpoint: str, **environment):
    """In a process of its own, because huggingface_hub reads its settings at import."""
    result = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(questions)],
        env={**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1",
             "HF_TOKEN": "", "HF_HUB_OFFLINE": "0", **environment},
        capture_output=True, text=True, timeout=60, check=False, cwd=home,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_hub(hub, tmp_path):
    params = Backbone.from_config({"model_type": "llama", **TINY}, "tiny", "test").params
    questions = [
        ("some/model", None),
        ("some/model", "v1"),
        ("some/model", "v9"),
        ("some/gated", None),
        ("some/files", None),
        ("some/broken", None),
        ("qwen/qwen3-0.6", None),
        ("gtp2", None),
        ("not a name!", None),
        ("n" * 5000, None),
    ]
    answers, stderr = ask(questions, tmp_path, hub)
    assert answers[0] == ["some/model", params]
    assert answers[1] == ["some/model@v1", params]
    for question, (code, message, hint) in zip(questions[2:], answers[2:], strict=True):
        assert code == "missing_file"
        assert question[0] in message
        assert hint
    texts = [" ".join(answer[1:]) for answer in answers[2:]]
    expected = ["'v9'", "hf auth login", "no config.json", "hub", "Qwen/Qwen3-0.6B",
                "openai-community/gpt2", "catalogue", "catalogue"]  # fmt: skip
    for words, text in zip(expected, texts, strict=True):
        assert words in text
    assert "Traceback" not in stderr

    # Offline, the local cache answers, and what it does not hold is missing.
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        again, _ = ask([("some/model", None), ("gtp2", None)], tmp_path, hub, **environment)
        assert again[0] == ["some/model", params]
        assert again[1][0] == "missing_file"
        assert "Did you mean openai-community/gpt2" in again[1][2]
