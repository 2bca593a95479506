"""`BuiltCorpus`: a corpus that was built, and the work that it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engram.corpus.results.stored_corpus import StoredCorpus
from engram.corpus.text.sources import PassedOver, passed_over_dict


@dataclass(frozen=True, kw_only=True, repr=False)
class BuiltCorpus(StoredCorpus):
    """Result of `build_corpus`.

    Attributes:
        fresh_tokens: Tokens of the units that were done now.
        resumed_units: Units that an earlier run had finished.
        was_finished: Whether the whole corpus was there already.
        passed_over: Entries of the text's folders that were not read.
        eos_token: The token that ends documents; None when none does.
        engine: Whether this machine did the work, or Ray.
        seconds: Time that it took.
        engines: What tokenised it, as sentences; a line below says why, where it has to.
        warnings: Why the fast engine was given up, where it was.
    """

    fresh_tokens: int
    resumed_units: int
    was_finished: bool
    passed_over: tuple[PassedOver, ...] = ()
    eos_token: str | None = None
    engine: str = "local"
    seconds: float = 0.0
    engines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def skipped(self) -> int:
        """Documents that were left out."""
        return int(self.manifest["counts"]["skipped"])

    @property
    def problems(self) -> tuple[str, ...]:
        """What was wrong with them, the first hundred."""
        return tuple(self.manifest["problems"])

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram corpus build --json`` prints."""
        rate = round(self.fresh_tokens / self.seconds) if self.fresh_tokens else None
        return {
            **self.summary,
            "eos_token": self.eos_token,
            "passed_over": passed_over_dict(self.passed_over),
            "was_finished": self.was_finished,
            "resumed_units": self.resumed_units,
            "engine": self.engine,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": rate,
        }
