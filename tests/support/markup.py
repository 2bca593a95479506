"""Checks a page without a browser: well nested, ids that are unique, nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_VOID = {"meta", "br", "input", "link", "img", "hr"}
_LOADING = {"src", "href", "srcset", "action", "formaction", "data", "poster", "background", "ping"}


class Markup(HTMLParser):
    """What a page consists of.

    Attributes:
        tags: Names of its elements, in order.
        text: Its text, without scripts and styles.
        bdis: Text of every <bdi>.
        data: Text of the block of data.
        scripts: Elements that run, with their attributes.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text, self.data = "", ""
        self.bdis: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.names: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == [], f"not closed: {self._open}"
        assert len(self.names) == len(set(self.names)), "ids come twice"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        assert len(named) == len(attrs), f"an attribute of <{tag}> comes twice"
        assert not _LOADING & named.keys(), f"<{tag}> loads {named}"
        assert not any(name.startswith("on") for name in named), f"<{tag}> has a handler: {named}"
        assert "url(" not in (named.get("style") or "")
        self.names += [value for name, value in attrs if name == "id" and value]
        if tag == "script":
            self.scripts.append(named)
        if tag == "bdi":
            self.bdis.append("")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1] == tag, f"</{tag}> closes <{self._open[-1]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            if (self.scripts[-1].get("type") or "") == "application/json":
                self.data += data
        elif inside == "style":
            assert not re.search(r"@import|url\(|expression", data)
        else:
            self.text += data
            if inside == "bdi":
                self.bdis[-1] += data
