"""Fixtures that many tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_assets() -> Path:
    """Folder of the real tokenizers, checkpoint and text, for tests marked `real`."""
    folder = os.environ.get("ENGRAM_ASSETS", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ENGRAM_ASSETS names no folder; `make real` fetches it")
    return Path(folder)
