"""`RunChange`: how the loss of two runs differs, with an interval where there are two documents."""

from __future__ import annotations

from dataclasses import dataclass

from engram.training.document_loss import DocumentLosses, paired_difference


@dataclass(frozen=True)
class RunChange:
    """Loss of one run minus that of another, on the same documents.

    Attributes:
        nats: Difference in nats a token.
        low: Lower end of its 95 % interval over documents; None of a single document.
        high: Upper end.
    """

    nats: float
    low: float | None
    high: float | None


def run_change(
    a: DocumentLosses, b: DocumentLosses, *, resamples: int = 2000, seed: int = 0
) -> RunChange:
    """Compare two runs by a paired bootstrap over documents.

    Args:
        a: Losses of the one.
        b: Losses of the other, for the same documents.
        resamples: Times that documents are drawn.
        seed: Decides the draws.
    """
    found = paired_difference(a, b, resamples=resamples, seed=seed)
    if (a.tokens > 0).sum() < 2:
        return RunChange(found.nats, None, None)
    return RunChange(found.nats, found.low, found.high)
