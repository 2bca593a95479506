"""A stand-in of the hub on the loopback, and processes that know of no other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIMIT = 2**20  # of bytes that any one answer may have
COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """Serves the folders of `root` as repositories, and notes what it sent."""

    limit = LIMIT

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        repo, _, rest = self.path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        folder, path = self.server.root / repo, self.server.root / repo / file
        if not folder.is_dir():
            return self.fail(404, {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", "v1", "c" * 40):
            return self.fail(404, {"X-Error-Code": "RevisionNotFound"})
        if not path.is_file():
            return self.fail(404, {"X-Error-Code": "EntryNotFound"})
        size = path.stat().st_size
        first, last, status = 0, size - 1, 200
        if "Range" in self.headers and not self.server.ignores_ranges:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            last, status = min(last, size - 1), 206
        length = last - first + 1
        self.send_response(status)
        for name, value in {
            "ETag": f'"{repo}{file}"', "X-Repo-Commit": "c" * 40, "Content-Length": str(length),
            "Content-Range": f"bytes {first}-{last}/{size}",
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            whole = self.server.ignores_ranges
            assert whole or length < self.limit, f"{file} was asked for whole"
            self.server.sent.append((file, length))  # before the client can look at it
            with path.open("rb") as stream:
                stream.seek(first)
                with contextlib.suppress(BrokenPipeError):  # the client has seen enough
                    self.wfile.write(stream.read(min(length, self.limit)))
        return None

    def fail(self, status, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


class ModelHub(Hub):
    """Lists a repository's files as well."""

    def do_GET(self):
        if not self.path.startswith("/api/models/"):
            return super().do_GET()
        path = self.path.removeprefix("/api/models/").partition("?")[0]
        repo, _, rest = path.partition("/revision/")
        if "/tree/" in path:
            repo, _, rest = path.partition("/tree/")
        folder = self.server.root / repo
        if not folder.is_dir() or rest.partition("/")[0] not in ("", "main", "v1", COMMIT):
            return self.fail(404, {"X-Error-Code": "RepoNotFound"})
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
        answer: object = {
            "id": repo,
            "sha": COMMIT,
            "siblings": [{"rfilename": path.name} for path in files],
        }
        if "/tree/" in self.path:
            answer = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0"}
                for path in files
            ]
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return self.wfile.write(body)


@contextmanager
def serving(handler, root):
    """Serve a folder of repositories on the loopback while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.root, server.sent, server.ignores_ranges = root, [], False
    # How often it looks whether it is to end: half a second, if nobody says otherwise.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hub_environment(hub, home):
    return {
        "HF_HOME": str(home),
        "HF_TOKEN": "",
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "NO_PROXY": "127.0.0.1",
    }


def run_python(hub, folder, *words, **environment):
    """Run a process that starts anew."""
    env = {**os.environ, **hub_environment(hub, folder / "home"), **environment}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, env=env, cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
