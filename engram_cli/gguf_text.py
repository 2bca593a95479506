"""GGUF files for people: dialect, tables and their places, constants and what is missing."""

from collections.abc import Mapping
from typing import Any

from engram.units import format_bytes, plural
from engram_cli.output import Shown, Table


def show_gguf(gguf: Mapping[str, Any]) -> Shown:
    """Show what GGUF files say of their memory, as ``engram report --json`` has it."""
    parts = len(gguf["files"])
    layers = ", ".join(map(str, gguf["layer_ids"])) or "not stated"
    yield (
        f"\nDialect {gguf['dialect']} ({gguf['dialect_source']}), architecture "
        f"{gguf['architecture']}, GGUF version {gguf['version']} in {plural(parts, 'file')}, "
        f"aligned to {gguf['alignment']:,} bytes. Layers with a memory: {layers}.\n"
        f"Resident {format_bytes(gguf['resident_bytes'])}; gathered row by row "
        f"{format_bytes(gguf['gathered_bytes'])}.\n"
    )
    if gguf["tables"]:
        yield _tables(gguf)
        yield ""
    yield _constants(gguf)
    if gguf["missing"]:
        places = ", ".join(it["place"] for it in gguf["missing"])
        yield f"\nMissing: {places}. An engine refuses this file, or runs without its memory."
    if gguf["problems"]:
        yield ""
        rows = [(it["code"], it["message"]) for it in gguf["problems"]]
        yield Table(rows, ("problem", ""), left=("problem", ""))


def _tables(gguf: Mapping[str, Any]) -> Table:
    rows = [
        (
            "unknown" if it["layer_id"] is None else it["layer_id"],
            it["encoding"],
            f"{it['rows']:,}",
            "unknown" if it["row_bytes"] is None else f"{it['row_bytes']:,}",
            f"{it['start']:,}",
            it["file"],
        )
        for it in gguf["tables"]
    ]
    headings = ("layer", "row encoding", "rows", "row bytes", "starts at byte", "of file")
    return Table(rows, headings, left=("row encoding", "of file"))


def _constants(gguf: Mapping[str, Any]) -> Table:
    rows = [*gguf["types"].items(), *((it["constant"], "missing") for it in gguf["missing"])]
    return Table(rows, ("constant", "type found"), left=("constant", "type found"))
