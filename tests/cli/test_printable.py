import io
import json

from engram_cli.errors import Failure
from engram_cli.output import Output
from engram_cli.printable import printable

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\x9b31m\x7f\u202egnp\u2066\udcff"
SHOWN = r"\x1b]0;title\x07\x1b[2J\x0d\x9b31m\x7f\u202egnp\u2066\udcff"
# Rich itself drops a few.
DRAWN = SHOWN.replace(r"\x07", "").replace(r"\x0d", "")


def table(console):
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    made.add_column(HOSTILE)
    made.add_row(HOSTILE)
    console.print(made)
    console.print(HOSTILE)


def test_only_tab_and_newline_stay():
    assert printable("a\tb\nc é 漢 [bold]") == "a\tb\nc é 漢 [bold]"
    assert printable(HOSTILE) == SHOWN


def test_no_way_out_lets_a_text_control_the_terminal(capsys):
    out = Output(verbose=True)
    out.result({}, table)
    for tell in (out.note, out.warn, out.detail, out.next_step):
        tell(HOSTILE)
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [DRAWN] * 3
    assert [line.endswith(SHOWN) for line in shown.err.splitlines()] == [True] * 4
    Output(json=True).result({"name": HOSTILE}, table)
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
    Output().result({}, table)
    shown = terminal.getvalue()
    assert "\x1b[1m" in shown  # a heading in bold
    assert DRAWN in shown
    assert "\x1b]0;" not in shown
    assert "\u202e" not in shown
