"""Folders that conversions start from."""

from __future__ import annotations

import pytest

from support import tiny
from support.layouts import LAYOUTS, random_memory


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return tiny.family_folders("llama", tmp_path_factory)[0]


@pytest.fixture(scope="session")
def folders(base, tmp_path_factory):
    """Attached folders with random weights, by layout: as attached, their memory overwritten."""
    return {
        layout: random_memory(base, tmp_path_factory.mktemp(layout) / "attached", layout)
        for layout in LAYOUTS
    }
