"""Text output of `engram corpus`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engram.units import format_bytes, format_count, listed, plural
from engram_cli.output import Shown

if TYPE_CHECKING:
    from engram.corpus.text.sources import PassedOver

_LISTED_PROBLEMS = 10
_LISTED_NAMES = 3


def plan_text(plan: dict[str, Any]) -> str:
    """Describe the output of a dry run."""
    size = format_bytes(plan["input_bytes"]) if plan["input_bytes"] is not None else "unknown size"
    return f"Would write {plan['output']} from {plural(plan['files'], 'file')}, {size}."


def skipped_text(count: int, problems: Sequence[str], most: int = _LISTED_PROBLEMS) -> str:
    """Describe the skipped documents, the first of them by line."""
    were = "was" if count == 1 else "were"
    lines = [f"{plural(count, 'document')} {were} skipped:", *problems[:most]]
    if count > len(lines) - 1:
        lines.append(f"... and {count - len(lines) + 1:,} more")
    return "\n  ".join(lines)


def passed_over_text(names: Sequence[PassedOver]) -> str:
    """Describe the folder entries that were not read, the first of them by name."""
    words = [f"{entry.name} ({entry.reason})" for entry in names]
    entries = "1 entry was" if len(names) == 1 else f"{len(names):,} entries were"
    return f"{entries} not read: {listed(words, _LISTED_NAMES)}."


def counts_text(payload: dict[str, Any]) -> str:
    """Return the number of tokens, and whether they include ends of documents.

    Args:
        payload: With `tokens`, `documents`, `tokenizer`; and `eos_token` if it is known.
    """
    end = payload["tokenizer"]["eos_id"]
    counts = f"{plural(payload['tokens'], 'token')} in {plural(payload['documents'], 'document')}"
    if end is None:
        return f"{counts}, to which no end-of-document tokens were added"
    name = payload.get("eos_token") or f"token {end}"
    return f"{counts}, each ended by {name} (--no-eos leaves it out)"


def _summary(payload: dict[str, Any]) -> Shown:
    tokenizer = payload["tokenizer"]
    yield counts_text(payload)
    yield (
        f"{plural(payload['shards'], 'shard')} of {payload['dtype']}, "
        f"{format_bytes(payload['output_bytes'])}"
    )
    yield f"Tokenizer {tokenizer['name']}: {tokenizer['vocab_size']:,} ids."


def built_text(payload: dict[str, Any]) -> Shown:
    """Describe the result of a build."""
    yield from _summary(payload)
    if not payload["was_finished"]:
        rate = payload["tokens_per_second"]
        speed = f" ({format_count(rate)} tokens/s)" if rate is not None else ""
        yield f"Took {payload['seconds']:.1f} s{speed}."


def info_text(payload: dict[str, Any], verbose: bool) -> Shown:
    """Describe the contents of a corpus."""
    yield from _summary(payload)
    inputs = payload["inputs"]
    sizes = [file["bytes"] for file in inputs]
    size = "" if None in sizes else f", {format_bytes(sum(sizes))}"
    yield f"From {plural(len(inputs), 'file')}{size}, split by {payload['split']}."
    for file in inputs if verbose else ():
        yield f"  {file['name']}"
    if payload["skipped"]:
        most = len(payload["problems"]) if verbose else _LISTED_PROBLEMS
        yield skipped_text(payload["skipped"], payload["problems"], most)
