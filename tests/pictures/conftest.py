"""One Chromium for all tests of pages, and the checks that every page has to pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.chromium import Browser, Tab, chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A running Chromium; tests that take it are marked `needs_chromium`."""
    with chromium() as running:
        yield running


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Tab]]:
    """Shows a page; at the end of the test, no page may have failed or asked for anything."""
    shown: list[tuple[Tab, str]] = []

    def show(text: str, width: int = 1200, scheme: str = "light", scripts: bool = True) -> Tab:
        path = tmp_path / f"page{len(shown)}.html"
        path.write_text(text, encoding="utf-8")
        tab = browser.tab()
        tab.look(width, scheme=scheme)
        if not scripts:
            tab.without_scripts()
        shown.append((tab, path.as_uri()))
        return tab.open(path)

    yield show
    for tab, address in shown:
        tab.rest()  # for what is late
        assert tab.errors == []
        assert tab.requests == [address]
