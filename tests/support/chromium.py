"""Headless Chromium over its debugging pipe: opens pages, types, looks, hears of errors.

Nothing is installed for it: the protocol is JSON that ends with a NUL, on two pipes.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
needs_chromium = pytest.mark.skipif(
    BROWSER is None, reason="Chromium is not installed: apt-get install chromium"
)

# Chromium reads commands from descriptor 3 and writes answers to 4.
_LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3), os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu"),
    *("--no-first-run", "--disable-extensions", "--disable-component-update", "--mute-audio"),
    *("--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars"),
)
_KEY_CODES = {
    **{"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36},
    **{"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40},
}


class Tab:
    """One page, and what it did.

    Attributes:
        errors: Messages of the console that are errors or warnings, refused requests, exceptions.
        requests: Addresses that the page asked for, its own among them.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._runs_scripts = True
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        browser.tabs[self.session] = self
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol for this page."""
        return self._browser.call(method, self.session, **params)

    def heard(self, method: str, params: dict[str, Any]) -> None:
        """Record an event."""
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["exception"]["description"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])

    def open(self, path: Path) -> Tab:
        """Open a file and wait until it is drawn; return the same."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("document.readyState === 'complete'")
        self.rest()
        return self

    def rest(self, seconds: float = 0.05) -> None:
        """Wait until a frame is drawn, and some time more."""
        if self._runs_scripts:
            frame = "requestAnimationFrame(() => requestAnimationFrame(done))"
            self.evaluate(f"new Promise(done => {frame})")
        time.sleep(seconds)

    def evaluate(self, code: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it resolves to."""
        answer = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def wait_for(self, code: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"!!({code})"):
            assert time.monotonic() < end, f"{code} was not true within {seconds} s"
            time.sleep(0.02)

    def look(
        self, width: int = 1200, height: int = 900, *, scheme: str = "light", media: str = ""
    ) -> None:
        """Set the window's size, the colour scheme that is preferred, and the medium."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def without_scripts(self) -> None:
        """Open what comes next as a browser that runs no scripts does."""
        self.call("Emulation.setScriptExecutionDisabled", value=True)
        self._runs_scripts = False

    def hover(self, selector: str) -> None:
        """Move the mouse over the first element that a CSS selector finds."""
        element = f"document.querySelector({json.dumps(selector)})"
        box = self.evaluate(
            f"{element}.scrollIntoView({{block: 'center'}}),"
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 4])"
            f"({element}.getClientRects()[0])"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])

    def press(self, *keys: str) -> None:
        """Press keys, one after the other: Tab, ArrowRight, Home."""
        for key in keys:
            code = {"key": key, "code": key, "windowsVirtualKeyCode": _KEY_CODES[key]}
            self.call("Input.dispatchKeyEvent", type="rawKeyDown", **code)
            self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(shot["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {**size, "scale": 1}}


class Browser:
    """A running Chromium.

    Attributes:
        tabs: Its pages, by session.
    """

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int) -> None:
        self._process, self._commands, self._answers = process, commands, answers
        self._buffer = b""
        self._calls = 0
        self.tabs: dict[str, Tab] = {}

    def tab(self) -> Tab:
        """Open an empty page of its own."""
        return Tab(self)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Call a method and wait for its answer; events that come meanwhile are recorded."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._send(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._calls:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            tab = self.tabs.get(answer.get("sessionId", ""))
            if tab is not None and "method" in answer:
                tab.heard(answer["method"], answer["params"])

    def _send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._commands, data) :]

    def _read(self, seconds: float = 60) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], seconds)
            assert ready, f"Chromium said nothing for {seconds} s"
            block = os.read(self._answers, 2**16)
            assert block, f"Chromium ended with {self._process.wait()}"
            self._buffer += block
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium with an empty profile while the block runs."""
    assert BROWSER is not None
    pipes = [*os.pipe(), *os.pipe()]
    # Clear of 3 and 4, which the launcher puts them on.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipes]
    for end in pipes:
        os.close(end)
    read_commands, commands, answers, write_answers = ends
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [BROWSER, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(read_commands), str(write_answers), *words],
            pass_fds=(read_commands, write_answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        browser = Browser(process, commands, answers)
        try:
            yield browser
        finally:
            try:
                browser.call("Browser.close")
                process.wait(10)
            finally:
                process.kill()
                process.wait()
                os.close(commands)
                os.close(answers)
