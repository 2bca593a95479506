"""`BuiltCorpus`: a corpus that was built, and the work that it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engram.corpus.building.unit_work import Notes
from engram.corpus.results.stored_corpus import StoredCorpus
from engram.corpus.text.sources import PassedOver, passed_over_dict


@dataclass(frozen=True, kw_only=True, repr=False)
class BuiltCorpus(StoredCorpus):
    """Result of `build_corpus`.

    Attributes:
        fresh_tokens: Tokens of the units that were done now.
        resumed_units: Units that an earlier run had finished.
        was_finished: Whether the whole corpus was there already.
        notes: Skipped documents, engines, and warnings that were met.
        passed_over: Entries of the text's folders that were not read.
        eos_token: The token that ends documents; None when none does.
        engine: Whether this machine did the work, or Ray.
        seconds: Time that it took.
    """

    fresh_tokens: int
    resumed_units: int
    was_finished: bool
    notes: Notes
    passed_over: tuple[PassedOver, ...] = ()
    eos_token: str | None = None
    engine: str = "local"
    seconds: float = 0.0

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
