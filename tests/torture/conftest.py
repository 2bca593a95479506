"""Fixtures of the torture tests: a process to fork from, and what the writers read."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.forks import Forks
from torture.writers import make_inputs


@pytest.fixture(scope="session")
def inputs(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"), forks)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print who noticed the flipped bits."""
    passed = terminalreporter.getreports("passed")
    lines = [line for report in passed for key, line in report.user_properties if key == "noticed"]
    if lines:
        terminalreporter.section("who noticed a flipped bit")
        for line in lines:
            terminalreporter.write_line(line)
