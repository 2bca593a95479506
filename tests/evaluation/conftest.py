"""Folders that tests of evaluations share."""

import pytest

from support import evaluated


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A text, a base and its attached folder; `place.trained` trains from it."""
    return evaluated.place(tmp_path_factory)


@pytest.fixture(scope="module")
def out(place):
    """A memory that was trained on the text."""
    return place.trained("out")
