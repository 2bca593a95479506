"""Keeps transformers from writing its own bars and remarks into this command line's output."""

from __future__ import annotations

from logging import ERROR, getLogger


def silence_transformers() -> None:
    """Leave transformers and bitsandbytes only their errors; bars would land in pipes and logs."""
    from transformers import logging

    # It remarks on every projection that it casts.
    getLogger("bitsandbytes").setLevel(ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
