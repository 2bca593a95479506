"""The gallery shows every picture of `make figures`, beside the command that makes it."""

from __future__ import annotations

import importlib.util
import re

import pytest

from support.paths import REPOSITORY

GALLERY = (REPOSITORY / "docs" / "gallery.md").read_text(encoding="utf-8")
FIGURES = REPOSITORY / "docs" / "figures"
_SHOWN = re.compile(r"\]\(figures/([^)]+)\)")


@pytest.fixture(scope="module")
def figures():
    """The pictures as the script that makes them states them."""
    path = REPOSITORY / "scripts" / "make_figures.py"
    spec = importlib.util.spec_from_file_location("make_figures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FIGURES


def test_every_picture_is_shown_with_its_command(figures):
    shown = {line.removeprefix("$ ") for line in GALLERY.splitlines() if line.startswith("$ ")}
    for figure in figures:
        assert figure.command.replace("'", '"') in {it.replace("'", '"') for it in shown}
        assert f"](figures/{figure.name})" in GALLERY


def test_every_picture_and_page_that_is_shown_is_there(figures):
    named = set(_SHOWN.findall(GALLERY))
    assert named == {it.name for it in figures} | {it.page for it in figures if it.page}
    pages = (REPOSITORY / "docs").glob("*.md")
    shown = {name for page in pages for name in _SHOWN.findall(page.read_text(encoding="utf-8"))}
    assert {path.name for path in FIGURES.iterdir()} == shown
    for name in named:
        assert (FIGURES / name).stat().st_size > 10_000
