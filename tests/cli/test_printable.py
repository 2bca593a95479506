import io
import json
import re

import pytest

from engram_cli.errors import Failure
from engram_cli.output import Output, Table, printable

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\x9b31m\x7f\u202egnp\u2066\udcff"
SHOWN = r"\x1b]0;title\x07\x1b[2J\x0d\x9b31m\x7f\u202egnp\u2066\udcff"


def shown():
    yield Table([[HOSTILE]], [HOSTILE], left=[HOSTILE])
    yield HOSTILE


def test_only_tab_and_newline_stay():
    assert printable("a\tb\nc é 漢 [bold]") == "a\tb\nc é 漢 [bold]"
    assert printable(HOSTILE) == SHOWN


def test_no_way_out_lets_a_text_control_the_terminal(capsys):
    out = Output(verbose=True)
    out.result({}, shown())
    for tell in (out.note, out.warn, out.detail, out.next_step):
        tell(HOSTILE)
    seen = capsys.readouterr()
    assert seen.out.splitlines() == [SHOWN] * 3
    assert [line.endswith(SHOWN) for line in seen.err.splitlines()] == [True] * 4
    Output(json=True).result({"name": HOSTILE}, shown())
    line = capsys.readouterr().out
    assert line.isascii()
    assert printable(line) == line
    assert json.loads(line) == {"name": HOSTILE}
    line = Failure("bug", HOSTILE, HOSTILE, 1, {"value": HOSTILE}).to_json()
    assert printable(line) == line


def test_styles_of_our_own_stay_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdout", terminal)
    Output().result({}, shown())
    seen = terminal.getvalue()
    assert "\x1b[1m" in seen  # a heading in bold
    assert SHOWN in seen
    assert "\x1b]0;" not in seen
    assert "\u202e" not in seen


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("no_color", ["1", None])
def test_verdicts_have_a_colour_on_a_terminal_alone(is_terminal, no_color, monkeypatch):
    class Stream(io.StringIO):
        def isatty(self):
            return is_terminal

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")  # for other programs: a pipe of ours stays plain
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    rows = [("one", "yes"), ("two", "no"), ("three", "ok         "), ("four", "FAILED: gone")]
    rows += [("five", "not checked"), ("no place", "unknown")]
    monkeypatch.setattr("sys.stdout", stream := Stream())
    Output().result({}, [Table(rows, ("name", "fits"), left=("name", "fits"))])
    seen = stream.getvalue()
    if not is_terminal or no_color is not None:
        assert "\x1b" not in seen
        assert seen.splitlines()[1].split() == ["one", "yes"]
        return
    coloured = re.findall("\x1b\\[(3[0-9])m([^\x1b]*)", seen)
    assert [(code, text.strip()) for code, text in coloured] == [
        ("32", "yes"),
        ("31", "no"),
        ("32", "ok"),
        ("31", "FAILED: gone"),
    ]
    assert re.findall("\x1b\\[1m([^\x1b]*)", seen)[0].strip() == "name"
