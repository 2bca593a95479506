"""Answers as Markdown and as CSV, for documents and spreadsheets."""

import csv
import io
from collections.abc import Mapping, Sequence

from engram_cli.output import Shown


def as_markdown(shown: Shown) -> str:
    """Write paragraphs and tables as Markdown; a table without headings is a list."""
    parts = []
    for part in shown:
        if isinstance(part, str):
            parts.append(part.strip("\n").replace("\n", "  \n"))
            continue
        rows = [[str(cell).replace("|", "\\|") for cell in row] for row in part.rows]
        if not part.headings:
            parts.append("\n".join(" ".join(row) for row in rows))
            continue
        rule = ["---" if name in ("", *part.left) else "---:" for name in part.headings]
        lines = [list(part.headings), rule, *rows]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(filter(None, parts))


def as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Write rows as comma-separated values, with their keys as headings."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")
