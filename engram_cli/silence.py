"""Keeps transformers from writing its own bars and remarks into this command line's output."""

from __future__ import annotations


def silence_transformers() -> None:
    """Leave transformers only its errors; bars would land in pipes and logs."""
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
