"""Keeps what a command writes apart from what it reads."""

from __future__ import annotations

from pathlib import Path

from engram.errors import InputError


def demand_apart(output: Path, *inputs: Path) -> None:
    """Refuse an output that is an input, lies in one, or would take one with it.

    Paths are compared by where they lead: links and relative paths do not hide an input.

    Args:
        output: Folder to appear, which may replace one that is there.
        *inputs: Folders and files that are read.

    Raises:
        InputError: It is not apart from them.
    """
    target = output.expanduser().resolve()
    for given in inputs:
        source = given.expanduser().resolve()
        if target == source:
            what = f"{output} is what is read"
        elif source in target.parents:
            what = f"{output} lies in {given}, which is read"
        elif target in source.parents:
            what = f"{given}, which is read, lies in {output}"
        else:
            continue
        raise InputError(
            f"{what}: it would be changed or lost.",
            "Choose another folder; what is read stays as it is.",
            output=str(output),
            input=str(given),
        )
