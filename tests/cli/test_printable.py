import io
import json

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
