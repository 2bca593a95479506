"""A tiny attached folder, a text, and a run that trained one with the other."""

from pathlib import Path

import pytest

from engram.training import train
from engram.training.trained import Trained
from support import tiny
from support.trained import options, written_text


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 80 paragraphs."""
    return written_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def attached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a memory."""
    return tiny.family_folders("llama", tmp_path_factory)[1]


@pytest.fixture(scope="session")
def trained(attached: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of six steps to its end. Do not change its output."""
    return train(attached, tmp_path_factory.mktemp("trained") / "out", text, options=options())
