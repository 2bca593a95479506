"""Reads what `-c` names, and tells of a folder that a template's name might have meant."""

from __future__ import annotations

from pathlib import Path

from engram.config.engram_config import EngramConfig
from engram.config.templates import is_template, load_config
from engram_cli.output import Output


def read_named(out: Output, name: str) -> EngramConfig:
    """Read the config of a file or template, and note a folder of that name."""
    note_folder(out, name)
    return load_config(name)


def note_folder(out: Output, name: str) -> None:
    """Tell the user that a name is taken for a template although a folder has it, too."""
    if is_template(name) and Path(name).is_dir():
        out.note(f"{name} means the template; ./{name} means the folder here, which has no memory.")
