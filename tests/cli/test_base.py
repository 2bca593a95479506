"""The command line's base: one answer in every mode, one error in every form, exit codes."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import typer

from engram.errors import (
    ConfigError,
    CorruptFileError,
    DoesNotFitError,
    EngramError,
    MismatchError,
    MissingPackageError,
    Problem,
)
from engram_cli import main as cli
from engram_cli.errors import failure_of
from engram_cli.errors import run as run_action
from engram_cli.output import Output, Table
from support.cli import TERMINAL, command, imported_by, on_a_terminal, run, run_apart

ENV = {**os.environ, **TERMINAL}


def shell(line):
    return subprocess.run(
        ["bash", "-c", line.replace("engram ", f"{' '.join(command())} ")],
        env=ENV,
        text=True,
        capture_output=True,
        timeout=60,
    )


# --- Output: one call, every mode -------------------------------------------------------------


def answer(out):
    out.note("a note")
    out.detail("a detail")
    out.warn("a warning")
    with out.progress("Counting") as step:
        step(1, 2)
    out.result({"schema": "engram.test/1", "path": "[/a/b]"}, "[/a/b]")


def test_output_for_people(capsys):
    answer(Output())
    seen = capsys.readouterr()
    assert seen.out == "[/a/b]\n"
    assert seen.err == "a note\nWarning: a warning\n"


def test_output_for_programs(capsys):
    answer(Output(json=True))
    seen = capsys.readouterr()
    assert json.loads(seen.out) == {"schema": "engram.test/1", "path": "[/a/b]"}
    assert seen.out.count("\n") == 1
    assert seen.err == "a note\nWarning: a warning\n"


def test_quiet_and_verbose(capsys):
    answer(Output(quiet=True))
    assert capsys.readouterr() == ("[/a/b]\n", "Warning: a warning\n")
    answer(Output(verbose=True))
    assert capsys.readouterr().err == "a note\na detail\nWarning: a warning\n"


def test_the_next_step_is_for_people_alone(capsys):
    for out in (Output(), Output(json=True), Output(quiet=True)):
        out.next_step("engram env")
    assert capsys.readouterr() == ("", "Next: engram env\n")
    for path in Path(cli.__file__).parent.glob("*.py"):
        assert path.name == "output.py" or "Next: " not in path.read_text(), path


def test_a_pipe_cuts_no_line(capsys):
    wide = "x" * 300
    Output().result({"schema": "engram.test/1"}, [Table([(wide, wide)], is_dense=True)])
    assert capsys.readouterr().out == f"{wide} {wide}\n"


def test_nan_is_no_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        Output(json=True).result({"schema": "engram.test/1", "x": float("nan")}, "")


def test_progress_on_a_terminal_only_shows_rate_and_amount(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def draw(quiet):
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        with Output(quiet=quiet).progress("[Hashing]") as step:
            for done in range(0, 2**21, 2**19):
                step(done, 2**21)
                time.sleep(0.2)
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    drawn = draw(quiet=False)
    assert "[Hashing]" in drawn
    assert "1.00 MiB / 2.00 MiB" in drawn
    assert "MiB/s" in drawn
    assert draw(quiet=True) == ""


def test_a_bar_without_a_thread_is_drawn_by_reports(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    threads = threading.active_count()
    with Output().progress("Tokenising", has_thread=False) as step:
        assert threading.active_count() == threads
        assert "Tokenising" in stream.getvalue()
        step(2**19, 2**21)
        assert "512.00 KiB / 2.00 MiB" in stream.getvalue()
        size = len(stream.getvalue())
        step(2**20, 2**21)  # too soon
        assert len(stream.getvalue()) == size
        time.sleep(0.2)
        step(2**20, 2**21)
        assert "1.00 MiB / 2.00 MiB" in stream.getvalue()
        step(2**21, 2**21)  # the end, however soon
        assert "2.00 MiB / 2.00 MiB" in stream.getvalue()


@pytest.mark.parametrize("width", [80, 60])
def test_progress_fits_its_line_and_says_no_absurd_rate(monkeypatch, width):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with Output().progress("Tokenising") as step:
        step(8 * 2**20, 24 * 2**20)  # what an earlier run did
        time.sleep(0.6)
        step(16 * 2**20, 24 * 2**20)
        step(24 * 2**20, 24 * 2**20)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", drawn) if line]
    assert max(map(len, lines)) <= width
    assert "24.00 MiB / 24.00 MiB, " in lines[-1]
    rate, _, unit = lines[-1].split(", ")[1].split("/s")[0].partition(" ")
    assert (10 < float(rate) <= 16 / 0.6, unit) == (True, "MiB")
    # All lines are one line of the terminal, drawn again and again.
    assert drawn.count("\n") <= 1


# --- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "exit_code", "words"),
    [
        (ConfigError([Problem("k", "too small", 3)], "a.yaml"), "bad_config", 3, "a.yaml:3: k"),
        (CorruptFileError("x: torn."), "corrupt_file", 3, "torn"),
        (MissingPackageError("ray", "ray", "The engine"), "missing_package", 4, "ray"),
        (DoesNotFitError("Too large."), "does_not_fit", 5, "Too large."),
        (MismatchError("They differ."), "mismatch", 5, "They differ."),
        (
            FileNotFoundError(errno.ENOENT, "No", "a.txt"),
            "missing_file",
            4,
            "a.txt does not exist.",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "b"), "no_permission", 3, "b: Perm"),
        (OSError(errno.EROFS, "Read-only file system", "r"), "no_permission", 3, "another disk"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "c"), "bad_input", 3, "c: Is a dir"),
        (OSError(errno.ENOSPC, "No space left on device", "d"), "does_not_fit", 5, "d: No space"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Refused"), "network", 4, "Refused"),
        (MemoryError(), "does_not_fit", 5, "memory"),
        (KeyboardInterrupt(), "interrupted", 130, "Interrupted"),
        (ZeroDivisionError("by zero"), "bug", 1, "ZeroDivisionError: by zero"),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error, code, exit_code, words, capsys):
    def action():
        raise error

    assert run_action(action, as_json=False) == exit_code
    seen = capsys.readouterr()
    assert seen.out == ""
    assert words in seen.err
    assert "Traceback" not in seen.err

    assert run_action(action, as_json=True) == exit_code
    seen = capsys.readouterr()
    line = json.loads(seen.err)
    assert list(line) == ["schema", "code", "message", "hint", "details"]
    assert (line["schema"], line["code"]) == ("engram.error/1", code)
    assert seen.err.count("\n") == 1
    assert seen.out == ""


def test_details_of_any_type_reach_the_json_line(tmp_path):
    failure = failure_of(EngramError("No.", path=tmp_path, kinds={1}))
    assert json.loads(failure.to_json())["details"] == {"path": str(tmp_path), "kinds": "{1}"}


def test_a_bug_says_how_to_report_it_and_debug_shows_where(monkeypatch, capsys):
    def action():
        raise RuntimeError("oops")

    assert run_action(action, as_json=False) == 1
    err = capsys.readouterr().err
    assert "bug in engram" in err
    assert "engram env" in err
    monkeypatch.setenv("ENGRAM_DEBUG", "1")
    assert run_action(action, as_json=False) == 1
    assert "in action" in capsys.readouterr().err


def test_a_verdict_keeps_its_exit_code():
    def action():
        raise typer.Exit(5)

    assert run_action(action, as_json=True) == 5


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["env", "--jsn"], "No such option: --jsn", "See engram env --help."),
        (["--jsn"], "No such option: --jsn", "See engram --help."),
        (["envv"], "Unknown command 'envv'.", "Did you mean env?"),
        (["config", "shw"], "No such command 'shw'", "See engram config --help."),
        (["config", "show"], "Missing argument", "See engram config show --help."),
        (["config", "new", "gpt2", "--k", "two"], "'two' is not ", "config new --help."),
        (["config", "new", "gpt2", "--set", "k"], "--set k: not of the form KEY=VALUE", "seed=1"),
        (["size", "--per", "row"], "'row' is not one of ", "See engram size --help."),
        (["size", "--heads", "1.5"], "'1.5' is not ", "See engram size --help."),
    ],
)
def test_usage_errors_end_with_2_in_both_forms(words, message, hint):
    done = run(*words).ended(2)
    assert done.stdout == ""
    assert message in done.stderr
    assert hint in done.stderr
    assert run(*words, "--json").error(2)["code"] == "usage"


def test_an_option_without_its_value_names_the_help():
    done = run("size", "--model").ended(2)
    assert done.stderr.endswith("'--model' requires an argument.\nSee engram size --help.\n")


def test_json_after_two_dashes_is_no_option():
    done = run("config", "show", "--", "--json")
    assert done.stderr.startswith("Error: '--json' is neither a template nor")


def test_no_arguments_show_the_help_as_a_usage_error():
    for words in ([], ["config"]):
        done = run_apart(*words).ended(2)
        assert done.stdout == ""
        assert done.stderr.startswith("Usage: engram")


def test_version():
    done = run_apart("--version")
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.startswith("engram 0.")
    assert run_apart("-V").stdout == done.stdout


def test_the_library_runs_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "engram", "size", "--nothing"],
        env=ENV, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "See engram size --help." in done.stderr


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("engram s", ["size"]),
        ("engram co", ["config", "corpus", "convert", "constants"]),
        ("engram corpus v", ["verify"]),
        ("engram size --mo", ["--model", "--mode"]),
        ("engram --v", ["--version"]),
        ("engram nothing a", ["allocate", "attach"]),
    ],
)
def test_shells_complete_words_without_heavy_packages(words, completions):
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    environment = {"_ENGRAM_COMPLETE": "complete_bash", **asked}
    done, modules = imported_by(environment=environment)
    assert (done.code, done.stdout.split()) == (0, completions), done.stderr
    heavy = {"torch", "transformers", "numba", "numpy", "sympy", "tokenizers", "rich"}
    assert not heavy & modules


def test_completion_of_an_unknown_shell(monkeypatch):
    def unknown(*_):
        raise typer.Exit(1)

    monkeypatch.setattr("typer.completion.show_callback", unknown)
    assert "Run it from bash" in run("--show-completion").ended(2).stderr


# --- Real shells -------------------------------------------------------------------------------


def test_interrupt_ends_with_130_and_one_line(tmp_path):
    pipe = tmp_path / "config.yaml"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        command("config", "show", pipe),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENV,
        text=True,
    )
    writer = None
    while writer is None and process.poll() is None:
        try:  # as soon as the command has opened the pipe; it then waits for text
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if writer is not None:
        os.close(writer)
    assert (process.returncode, out, err) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize("command", ["env", "env --json", "--help", "config show gpt2"])
def test_a_reader_that_goes_away_is_no_error(command):
    done = shell(f"engram {command} | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")


def test_notes_and_errors_never_move_to_stdout(tmp_path):
    file = tmp_path / "config.yaml"
    done = shell(f"engram config new gpt2 -o {file} --dry-run --json 2>&-")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert json.loads(done.stdout)["written"] is False
    done = shell(f"engram config show {file} 2>&-")
    assert (done.returncode, done.stdout) == (4, "")


def test_a_verdict_survives_a_closed_pipe(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("layout: none\n")
    done = shell(f"engram config check -q {bad} | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("command", ["env", "env --json", "--help"])
def test_a_full_disk_under_stdout(command):
    done = shell(f"engram {command} > /dev/full")
    assert done.returncode == 5
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_text_that_the_terminal_cannot_show_is_no_crash(tmp_path):
    odd = tmp_path / "é.yaml"
    odd.write_text("layout: none\n")
    done = run_apart("config", "check", odd, environment={"PYTHONIOENCODING": "ascii"}).ended(3)
    assert "\\xe9.yaml" in done.stdout


def test_no_color_and_no_control_codes_in_a_pipe_or_when_refused():
    assert "\x1b[3" not in on_a_terminal("config", "ls", NO_COLOR="1")
    assert "\x1b" not in run_apart("config", "ls").stdout


# --- engram env ----------------------------------------------------------------------------------


def test_env_names_what_the_toolkit_stands_on():
    found = run_apart("env", "--json").json()
    assert found["schema"] == "engram.env/1"
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["packages"]["torch"]
    assert found["packages"]["typer"] == typer.__version__
    shown = run_apart("env").stdout
    for name, version in found["packages"].items():
        assert name in shown
        assert version is None or version in shown


def test_an_interrupt_before_the_command_begins_is_one_line_too(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    ended = []
    monkeypatch.setattr("engram_cli.main.app", interrupted)
    monkeypatch.setattr("os._exit", lambda code: ended.append(code))
    # The test run's own Ctrl-C stays as it is.
    monkeypatch.setattr("engram_cli.main.interrupts_end_with", lambda code: None)
    with pytest.raises(SystemExit):
        cli.main()
    assert ended == [130]
    assert capsys.readouterr().err == "Interrupted.\n"
