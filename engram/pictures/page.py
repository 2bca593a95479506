"""The frame of every page: one file of HTML that loads nothing, in light, dark and print."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.errors import UsageError
from engram.pictures.unseen import seen
from engram.storage.files import atomic_write, check_file
from engram.version import __version__

_NOTHING = "\N{EN DASH}"

_STYLE = Path(__file__).with_name("page.css")

# Colours of both themes. Text is `ink`; `heat` and `cool` are laid over `paper`, the more opaque
# the higher a value is, and even at full strength `ink` stands out from them by 4.5 to 1.
THEMES: Mapping[str, Mapping[str, tuple[int, int, int]]] = {
    "light": {
        "paper": (255, 255, 255),
        "panel": (246, 245, 242),
        "ink": (17, 19, 24),
        "soft": (88, 93, 104),
        "line": (217, 214, 207),
        "accent": (150, 32, 44),
        "focus": (11, 92, 173),
        "heat": (226, 88, 62),
        "cool": (66, 138, 212),
    },
    "dark": {
        "paper": (20, 22, 27),
        "panel": (29, 32, 39),
        "ink": (238, 236, 231),
        "soft": (168, 173, 184),
        "line": (56, 61, 71),
        "accent": (255, 150, 132),
        "focus": (124, 184, 255),
        "heat": (188, 52, 54),
        "cool": (38, 102, 176),
    },
}

_SPACES = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\xa0": "⍽", "\u3000": "□"}


class Html(str):
    """Markup that is ready; any other string is escaped."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Frame:
    """All that a page says besides its body.

    Attributes:
        title: Its heading.
        lead: The answer in a sentence or two.
        source: The model, text or file that the numbers are of.
        command: The command that made it, or None.
        style: Rules of this kind of page, after those of all pages.
        script: Its only script.
        data: Values for the script, as JSON in the element ``#data``.
    """

    title: str
    lead: str
    source: str
    command: str | None = None
    style: str = ""
    script: str = ""
    data: Any = None


def page(frame: Frame, *body: str) -> str:
    """Return a page as one string.

    Args:
        frame: What it says besides its body.
        body: Its sections; strings that are not `Html` are escaped.
    """
    digest = base64.b64encode(hashlib.sha256(frame.script.encode()).digest()).decode()
    scripts = f"'sha256-{digest}'" if frame.script else "'none'"
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src {scripts}; "
        "base-uri 'none'; form-action 'none'"
    )
    command = Html("")
    if frame.command:
        command = Html(f"<dt>Command</dt><dd><code>{escaped(frame.command)}</code></dd>")
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{escaped(frame.title)}</title>",
        f"<style>\n{_variables()}{_STYLE.read_text(encoding='utf-8')}{frame.style}</style>",
        "</head>",
        "<body>",
        f"<header><h1>{escaped(frame.title)}</h1>",
        f'<p class="lead">{escaped(frame.lead)}</p>',
        f'<dl class="caption"><dt>Source</dt><dd>{escaped(frame.source)}</dd>{command}</dl>',
        "</header>",
        "<main>",
        *map(escaped, body),
        "</main>",
        f"<footer><p>Made by Engram toolkit {__version__}. This file loads nothing.</p></footer>",
    ]
    if frame.data is not None:
        # A "<" as an escape keeps any text from ending the element.
        values = json.dumps(frame.data, separators=(",", ":"), allow_nan=False)
        values = values.replace("<", "\\u003c")
        parts.append(f'<script type="application/json" id="data">{values}</script>')
    if frame.script:
        parts.append(f"<script>{frame.script}</script>")
    return "\n".join([*parts, "</body>", "</html>", ""])


def check_page(path: Path, overwrite: bool) -> None:
    """Check that a page can be written, before the work that it is to show.

    Args:
        path: The file to appear.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        UsageError: Its name does not end with .html.
        InputError: Something is there that may not be replaced.
        MissingFileError: There is no folder to put it into.
    """
    if path.suffix.lower() != ".html":
        raise UsageError(
            f"A page is an .html file, got {path.name}.",
            "Give it the ending .html.",
            path=str(path),
        )
    check_file(path, overwrite)


def write_page(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a page, whole or not at all.

    Args:
        path: The file to appear.
        text: The page.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        UsageError: Its name does not end with .html.
        InputError: Something is there that may not be replaced.
        MissingFileError: There is no folder to put it into.
        DoesNotFitError: The disk is full.
    """
    check_page(path, overwrite)
    with atomic_write(path, "w") as file:
        file.write(text)


def escaped(value: object) -> Html:
    """Return a value as markup that shows it; what is `Html` already stays.

    Characters that cannot be seen, such as control characters and marks of direction, are shown by
    their number.
    """
    return value if isinstance(value, Html) else Html(html.escape(seen(str(value))))


def marked(text: str) -> str:
    """Make a token's text visible: marks for spaces and newlines, ∅ where there is none."""
    shown = seen("".join(_SPACES.get(letter, letter) for letter in text)) or "∅"
    return f"◌{shown}" if unicodedata.category(shown[0]) in ("Mn", "Me") else shown


def token(text: str) -> Html:
    """Return a token or n-gram as markup, apart from the direction of the text around it."""
    return Html(f"<bdi>{escaped(marked(text))}</bdi>")


def section(title: str, *parts: str, note: str = "", name: str = "") -> Html:
    """Return a section with a heading.

    Args:
        title: The heading.
        parts: Its contents; strings that are not `Html` become paragraphs.
        note: A sentence below the heading on how to read it.
        name: Its id, for links to it.
    """
    told = [f'<p class="note">{escaped(note)}</p>'] if note else []
    inside = [it if isinstance(it, Html) else f"<p>{escaped(it)}</p>" for it in parts]
    place = f' id="{escaped(name)}"' if name else ""
    return Html(
        "\n".join([f"<section{place}><h2>{escaped(title)}</h2>", *told, *inside, "</section>"])
    )


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    label: str,
    left: Sequence[str] = (),
) -> Html:
    """Return a table that scrolls inside a region of its own, which the keyboard reaches.

    Args:
        headings: Names of the columns.
        rows: Cells by row; strings that are not `Html` are escaped, None is a dash. The first cell
            of a row is its heading.
        label: Name of the table, for screen readers.
        left: Headings of the columns that hold text; others hold numbers. The first one is text.
    """
    texts = [index == 0 or name in left for index, name in enumerate(headings)]
    kinds = ["" if is_text else ' class="n"' for is_text in texts]
    head = "".join(
        f'<th scope="col"{kind}>{escaped(name)}</th>'
        for name, kind in zip(headings, kinds, strict=True)
    )
    lines = [
        f'<div class="table" role="region" aria-label="{escaped(label)}" tabindex="0"><table>',
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
    ]
    for row in rows:
        cells = [_NOTHING if cell is None else escaped(cell) for cell in row]
        rest = (f"<td{kind}>{it}</td>" for it, kind in zip(cells[1:], kinds[1:], strict=True))
        lines.append(f'<tr><th scope="row">{cells[0]}</th>{"".join(rest)}</tr>')
    return Html("\n".join([*lines, "</tbody>", "</table></div>"]))


def signed(value: float, digits: int) -> str:
    """Write a difference with its sign and so many digits after the point."""
    return minus(f"{value:+.{digits}f}")


def minus(number: str) -> str:
    """Write the sign of a number as people set it."""
    return number.replace("-", "\N{MINUS SIGN}")


def last_name(target: str) -> str:
    """Return the name of a folder, file or model without what it lies in, for headings."""
    return target.rstrip("/").rpartition("/")[2] or target


def bullets(texts: Iterable[str]) -> Html:
    """Return a list of sentences."""
    return Html("<ul>" + "".join(f"<li>{escaped(text)}</li>" for text in texts) + "</ul>")


def _variables() -> str:
    """Return the colours as CSS variables; paper is always light."""
    rules = {
        name: "".join(f"--{key}:{r} {g} {b};" for key, (r, g, b) in colours.items())
        for name, colours in THEMES.items()
    }
    return (
        f":root{{color-scheme:light;{rules['light']}}}\n"
        "@media screen and (prefers-color-scheme:dark)"
        f"{{:root{{color-scheme:dark;{rules['dark']}}}}}\n"
    )
