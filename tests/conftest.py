"""Fixtures that many tests share."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from support.forks import WITHOUT_THE_TOOLKIT, Forks
from support.paths import BPE, GOLDEN, WORD

# Code of models is copied to where the environment says when transformers is imported; two
# processes of a test run must not share it.
_modules = tempfile.TemporaryDirectory(prefix="engram-test-modules-")
os.environ["HF_MODULES_CACHE"] = _modules.name


# The same examples every time: a run that fails can be repeated.
settings.register_profile("engram", derandomize=True, database=None)
settings.load_profile("engram")

# A shell that starts the tests in the background has Ctrl-C ignored, by what they start, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_disks() -> Iterator[None]:
    """Leave it to the system when to write: no test outlives a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests, and the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGRAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_assets() -> Path:
    """Folder of the real tokenizers, checkpoint and text, for tests marked `real`."""
    folder = os.environ.get("ENGRAM_ASSETS", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ENGRAM_ASSETS names no folder; `make real` fetches it")
    return Path(folder)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Reads a golden file by its name without ending."""
    return lambda name: json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def local_bpe() -> Path:
    """Folder of a byte-level BPE tokenizer with 544 ids."""
    return BPE


@pytest.fixture(scope="session")
def local_word() -> Path:
    """Folder of a word tokenizer with 23 ids."""
    return WORD


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A process to fork from, in which a command takes a tenth of a second."""
    from torture.writers import warm_up

    with Forks(warm_up(tmp_path_factory.mktemp("warm-up"))) as made:
        yield made


@pytest.fixture(scope="session")
def forks_without_the_toolkit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A process to fork from that has neither imported the toolkit nor seen code of models."""
    environment = {"HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules"))}
    with Forks(environment=environment, modules=WITHOUT_THE_TOOLKIT) as made:
        yield made
