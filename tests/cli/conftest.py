"""Fixtures of the tests of commands."""

import pytest

from support.short_text import TEXT


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path
