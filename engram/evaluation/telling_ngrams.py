"""The n-grams of a data set at which gates open widest, and those that help most.

Shapes: n tokens, L layers with a memory, M streams, g different n-grams of an order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engram.addressing.addresses import Addresses
from engram.addressing.text_rows import ngrams_of
from engram.addressing.tokenizer_files import TokenizerFile
from engram.evaluation.gate_options import GateOptions
from engram.evaluation.token_readings import TokenReadings
from engram.evaluation.token_texts import decode_tokens
from engram.training.document_loss import Window, window_starts

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class TellingNgram:
    """An n-gram that a gate, or the loss, singles out.

    N-grams of equal compressed ids are one, as they are for the memory. Those that the start of a
    document or window cuts short do not count. Of n-grams that end at the same places, such as "of
    Wales" and "Princess of Wales" in a text without another Wales, the longest is named.

    Attributes:
        by: Whether the mean of its gate is among the highest, or its gain among the largest.
        order: n of the n-gram.
        text: Its text where it occurs first.
        count: Times that it occurs; by gain, times that a token with a loss follows.
        gate_mean: Mean of the gate at its last token; by gain, of all layers and streams.
        layer_id: Layer of the gate; None by gain.
        stream: Stream of the gate; None by gain.
        gain: Mean loss of the tokens that follow it with the memory off, less that with it on, in
            nats; None where none follows.
    """

    by: Literal["gate", "gain"]
    order: int
    text: str
    count: int
    gate_mean: float
    layer_id: int | None
    stream: int | None
    gain: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return it in the terms of ``--json``."""
        return asdict(self)


class _Groups(NamedTuple):
    """The different n-grams of one order that occur often enough, in ascending order of their keys.

    Attributes:
        order: n of the n-grams.
        last: Position of the last token of each where it occurs first ``[g]``.
        counts: Times that each occurs ``[g]``.
        gates: Mean gates ``[g, L, M]``.
        followed: Times that a token with a loss follows ``[g]``.
        gains: Mean gains ``[g]``; NaN where none follows.
    """

    order: int
    last: Ids
    counts: Ids
    gates: Floats
    followed: Ids
    gains: Floats


def find_telling(
    readings: TokenReadings,
    windows: Sequence[Window],
    addresses: Addresses,
    tokenizer: TokenizerFile,
    options: GateOptions,
) -> tuple[TellingNgram, ...]:
    """Find the n-grams with the highest mean gate, for each layer and stream, and largest gains.

    Args:
        readings: Gates and losses of every token of the windows.
        windows: The windows.
        addresses: The memory's constants, with their token map.
        tokenizer: The model's tokenizer.
        options: How many are named, and how often each has to occur.

    Returns:
        Those of each layer and stream, then those by gain, the highest first.
    """
    ids = np.concatenate([window.ids for window in windows]).astype(np.int64)
    groups = list(_groups(readings, windows, ids, addresses, options.min_count))

    def name(group: _Groups, row: int, gate: tuple[int, int] | None) -> TellingNgram:
        last = int(group.last[row])
        gain = float(group.gains[row])
        mean = group.gates[row].mean() if gate is None else group.gates[row][gate]
        return TellingNgram(
            by="gain" if gate is None else "gate",
            order=group.order,
            text=decode_tokens(tokenizer, ids[last + 1 - group.order : last + 1].tolist()),
            count=int((group.followed if gate is None else group.counts)[row]),
            gate_mean=float(mean),
            layer_id=None if gate is None else readings.layer_ids[gate[0]],
            stream=None if gate is None else gate[1],
            gain=None if np.isnan(gain) else gain,
        )

    found = []
    for gate in np.ndindex(readings.gates.shape[1:]):
        scores = [group.gates[:, gate[0], gate[1]] for group in groups]
        counts = [group.counts for group in groups]
        for which, row in _highest(groups, scores, counts, options.top):
            found.append(name(groups[which], row, (gate[0], gate[1])))
    often = [np.where(it.followed >= options.min_count, it.gains, np.nan) for it in groups]
    counts = [group.followed for group in groups]
    for which, row in _highest(groups, often, counts, options.top):
        found.append(name(groups[which], row, None))
    return tuple(found)


def _groups(
    readings: TokenReadings,
    windows: Sequence[Window],
    ids: Ids,
    addresses: Addresses,
    min_count: int,
) -> Iterator[_Groups]:
    """Count the n-grams of each order, with their mean gates and gains."""
    ngrams = ngrams_of(addresses, ids, window_starts(windows))
    # Of the token that follows each; the first of a window has no loss.
    gains = np.append((readings.loss_off - readings.loss)[1:], np.nan)
    keys, shorter = ngrams.slots[:, 0], None
    for column, order in enumerate(addresses.orders):
        # Numbers of the (n-1)-grams are below the number of tokens, so that keys never overflow.
        keys = keys * addresses.vocab_size + ngrams.slots[:, order - 1]
        keys = np.unique(keys, return_inverse=True)[1]
        is_whole = ngrams.first[:, column] == np.arange(len(ids)) + 1 - order
        found = _Occurrences(order, keys, np.flatnonzero(is_whole))
        if shorter is not None:
            yield shorter.summed(readings.gates, gains, min_count, found)
        shorter = found
    if shorter is not None:
        yield shorter.summed(readings.gates, gains, min_count, None)


class _Occurrences:
    """The places of the n-grams of one order.

    Args:
        order: n of the n-grams.
        keys: Number of the n-gram that ends at each token ``[n]``.
        places: Positions at which a whole n-gram ends, in ascending order.
    """

    def __init__(self, order: int, keys: Ids, places: Ids) -> None:
        self.order, self.places, self.tokens = order, places, len(keys)
        _, index, self.inverse, self.counts = np.unique(
            keys[places], return_index=True, return_inverse=True, return_counts=True
        )
        self.last = places[index]

    def summed(
        self, gates: NDArray[np.float32], gains: Floats, min_count: int, longer: _Occurrences | None
    ) -> _Groups:
        """Return means over the places of each n-gram that occurs often enough.

        Args:
            gates: Gates of every token ``[n, L, M]``.
            gains: Gain of the token after each, NaN where there is none ``[n]``.
            min_count: Least count of an n-gram.
            longer: Those of the next order; n-grams that end wherever one of them does are left
                out.
        """
        wanted = self.counts >= min_count
        if longer is not None:
            rows = np.full(self.tokens, -1)
            rows[self.places] = self.inverse
            suffix = rows[longer.last]
            wanted[suffix[longer.counts == self.counts[suffix]]] = False
        kept = np.flatnonzero(wanted)
        after = gains[self.places]
        is_followed = np.isfinite(after)
        followed = self._sums(is_followed)[kept]
        means = np.empty((len(kept), *gates.shape[1:]))
        for layer, stream in np.ndindex(*gates.shape[1:]):
            sums = self._sums(gates[self.places, layer, stream])
            means[:, layer, stream] = sums[kept] / self.counts[kept]
        with np.errstate(invalid="ignore"):
            mean_gains = self._sums(np.where(is_followed, after, 0))[kept] / followed
        counts = self.counts[kept]
        return _Groups(self.order, self.last[kept], counts, means, followed.astype(int), mean_gains)

    def _sums(self, values: NDArray[Any]) -> Floats:
        """Sum values of the places by n-gram."""
        sums: Floats = np.bincount(self.inverse, values, len(self.counts)).astype(np.float64)
        return sums


def _highest(
    groups: Sequence[_Groups], scores: Sequence[Floats], counts: Sequence[Ids], top: int
) -> list[tuple[int, int]]:
    """Find the n-grams of the highest scores.

    Args:
        groups: N-grams of each order.
        scores: Their scores; NaN for those that do not take part.
        counts: Their counts: of equal scores the more frequent comes first, then the shorter, then
            the earlier.
        top: How many to find.

    Returns:
        For each its order's place in `groups`, and its place there.
    """
    found = []
    for which, (group, score, count) in enumerate(zip(groups, scores, counts, strict=True)):
        rows = np.flatnonzero(np.isfinite(score))
        rows = rows[np.lexsort((group.last[rows], -count[rows], -score[rows]))[:top]]
        found += [(-score[row], -count[row], which, group.last[row], row) for row in rows]
    return [(int(which), int(row)) for _, _, which, _, row in sorted(found)[:top]]
