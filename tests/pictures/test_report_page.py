"""The page of a report: its numbers, the option that writes it, and as Chromium draws it."""

from __future__ import annotations

import pytest

import engram
from engram.pictures.page import write_page
from engram.pictures.report_page import report_html
from engram.units import format_bytes
from support.chromium import needs_chromium
from support.cli import run
from support.contrast import lowest, lowest_mark
from support.markup import Markup

FITS = engram.ReportOptions(device_memory=80 * 2**30, host_memory=2**38, tp=4, mode="training")


@pytest.mark.parametrize("target", ["engram-27b", "qwen3.8-flash-next", "gpt2"])
@pytest.mark.parametrize("options", [None, FITS])
def test_every_number_of_the_report_is_on_the_page(target, options):
    report = engram.report(target, options=options).to_dict()
    found = Markup(report_html(report, command="engram report x"))
    for row in report["rows"]:
        assert row["part"] in found.text
        assert f"{row['bytes']:,}" in found.text
    for row in report["training"]:
        assert format_bytes(row["total_bytes"]) in found.text
    assert f"{report['totals']['total_bytes']:,}" in found.text
    assert all(it in found.text for it in report["assumptions"])
    assert "engram report x" in found.text
    assert found.scripts == []
    assert ("It fits." in found.text) == (report["fits"] is True)


def test_a_base_alone_and_a_memory_beside_one():
    base = Markup(report_html(engram.report("llama-3.2-1b").to_dict())).text
    assert "A base of 1.236B parameters takes 2.80 GiB for inference" in base
    assert "With the tables elsewhere" not in base
    both = Markup(report_html(engram.report("gpt2", "gpt2").to_dict())).text
    assert "A memory of 29.18M parameters and a base of 124.4M take" in both


def test_bars_are_as_long_as_their_bytes():
    report = engram.report("engram-27b", options=FITS).to_dict()
    page = report_html(report)
    host, used = 2**38, report["totals"]["rank_gpu_bytes"]
    assert f'<rect class="bar" x="0.0%" y="19" width="{round(100 * used / host, 2)}%"' in page
    assert '<rect class="limit" x="0.0%" y="19" width="31.25%"' in page


def test_the_option_writes_the_page(tmp_path):
    path = tmp_path / "report.html"
    done = run("report", "gpt2", "--tp", "2", "--json", "--html", path)
    answer = done.json()
    assert f"Wrote {path}." in done.stderr
    page = path.read_text(encoding="utf-8")
    command = f"engram report gpt2 --gpus 2 --html {path}"
    assert page == report_html(answer, command=command)
    assert command in Markup(page).text


def test_a_page_is_written_of_what_does_not_fit_too(tmp_path):
    path = tmp_path / "report.html"
    run("report", "engram-27b", "--device-memory", "8GB", "--html", path).ended(5)
    assert "It does not fit." in path.read_text(encoding="utf-8")


def test_a_page_that_is_there_is_kept_before_any_work(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("mine")
    failure = run("report", "no such target", "--json", "--html", path).error(3)
    assert "already there" in failure["message"]
    assert path.read_text() == "mine"
    run("report", "gpt2", "--html", path, "--overwrite").ended()
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_wrong_places_for_a_page(tmp_path):
    failure = run("report", "gpt2", "--json", "--html", tmp_path / "report.pdf").error(2)
    assert failure["message"] == "A page is an .html file, got report.pdf."
    assert ".html" in failure["hint"]
    run("report", "gpt2", "--json", "--html", tmp_path / "none" / "r.html").error(4)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(engram.errors.InputError, match="a folder"):
        write_page(tmp_path / "folder.html", "", overwrite=True)


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_it_can_be_read_on_any_screen(show, scheme, width):
    tab = show(report_html(engram.report("engram-27b", options=FITS).to_dict()), width, scheme)
    value, text, count = lowest(tab)
    assert value >= 4.5, text
    weakest, kinds = lowest_mark(tab)
    assert weakest >= 3
    assert kinds == {"bar", "limit"}
    assert count > 100
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
