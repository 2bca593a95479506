"""Advice on a memory's size: crowded rows, how often training touches them, and what others found.

Every threshold is named in the sentence that uses it. Sources: expected values of an even hash, and
the papers that the sentences name.
"""

import math
from dataclasses import dataclass

from engram.backbone import Backbone
from engram.errors import InputError
from engram.sizing.counts import MemoryCount
from engram.sizing.distance_moved import MOVED, distance_moved
from engram.sizing.optimizers import ROW_STATES, Optimizer
from engram.sizing.table_load import OrderLoad
from engram.units import format_count

# Share of n-grams that meet another in every head, below which more rows change little.
_CROWDED = 0.01
# Rows of the reference start with values of this size, or near it.
_ROW_SIZE = 1.0
# Learning rates of tables: of rows as `engram train` has it, and the paper's five times 4e-4.
_ROW_LR, _DENSE_LR = 0.1, 2e-3
_MOST_SHARE = 0.5
_SMALL_BASE = 10**9


@dataclass(frozen=True)
class Crowding:
    """The crowd in the rows of one order, for a text.

    Attributes:
        order: n of the n-grams.
        ngrams_per_row: Distinct n-grams to a row of one head, on average.
        colliding: Share of distinct n-grams that share their row in every head, as expected of an
            even hash.
        rows_enough: Rows per order, of all heads, at which that share falls to 1 %.
    """

    order: int
    ngrams_per_row: float
    colliding: float
    rows_enough: int


@dataclass(frozen=True)
class Advice:
    """Facts about a memory of a size, besides that it fits.

    Attributes:
        crowding: Each n-gram order, for a text; empty without one.
        train_tokens: Tokens of the training; None if not given.
        touches_per_row: Reads of a row of one head in it, on average.
        row_movement: Distance that the touches move a row, at most, in sizes of a row's start; see
            `distance_moved`.
        notes: Sentences for people.
    """

    crowding: tuple[Crowding, ...]
    train_tokens: int | None
    touches_per_row: float | None
    row_movement: float | None
    notes: tuple[str, ...]


def advise(
    counts: MemoryCount,
    backbone: Backbone | None,
    loads: tuple[OrderLoad, ...] = (),
    train_tokens: int | None = None,
    learning_rate: float | None = None,
    optimizer: Optimizer = "rowwise-adagrad",
) -> Advice:
    """Say what is known about a memory of a size.

    Args:
        counts: Its parameters.
        backbone: Its base model, if known.
        loads: Load of its tables by a text.
        train_tokens: Tokens of the training.
        learning_rate: Of the tables, in training; 0.1 for optimisers of rows and 2e-3 for the
            others when None.
        optimizer: Of the tables, in training.

    Raises:
        InputError: The learning rate is not a positive number.
    """
    crowding = tuple(
        _crowding(load, primes)
        for load, primes in zip(loads, counts.layers[0].primes, strict=False)
    )
    primes = [prime for order in counts.layers[0].primes for prime in order]
    if learning_rate is None:
        learning_rate = _ROW_LR if optimizer in ROW_STATES else _DENSE_LR
    if not 0 < learning_rate < math.inf:
        raise InputError(
            f"learning_rate must be a positive number, got {learning_rate:g}.",
            "Such as 0.1.",
            learning_rate=learning_rate,
        )
    touches = None if train_tokens is None else train_tokens * len(primes) / sum(primes)
    distance = None if touches is None else distance_moved(touches, learning_rate, optimizer)
    movement = None if distance is None else distance / _ROW_SIZE
    notes = [*_size_notes(counts, backbone), *map(_crowding_note, crowding)]
    if touches is not None and movement is not None:
        notes.append(
            f"{format_count(train_tokens or 0)} tokens touch a row {touches:,.1f} times on "
            f"average; under {optimizer} at learning rate {learning_rate:g} its values, which "
            f"start near {_ROW_SIZE:g}, move by at most {movement:,.2f} (gradients of one size, "
            "all in one direction)"
            + (
                f": less than {MOVED:g}, so the tables stay nearly as random as they began. Start "
                "them at zero, raise the learning rate, or take fewer rows."
                if movement < MOVED
                else "."
            )
        )
    return Advice(crowding, train_tokens, touches, movement, tuple(notes))


def _crowding(load: OrderLoad, primes: list[int]) -> Crowding:
    """Compute how crowded an order is, as expected of n-grams that fall on rows evenly."""
    ngrams, heads = load.distinct_ngrams, len(primes)
    others = max(0, ngrams - 1)
    in_head = [-math.expm1(others * math.log1p(-1 / prime)) for prime in primes]
    of_one = _CROWDED ** (1 / heads)
    enough = math.ceil(-others / math.log1p(-of_one)) if others else 1
    return Crowding(load.order, ngrams * heads / load.rows, math.prod(in_head), enough * heads)


def _crowding_note(it: Crowding) -> str:
    return (
        f"Order {it.order}: {it.ngrams_per_row:.2g} distinct n-grams a row of a HEAD, "
        f"{it.colliding:.2%} of them share their row in every head; beyond {it.rows_enough:,} rows "
        f"per ORDER it is under {_CROWDED:.0%}, and more rows change little for this text."
    )


def _size_notes(counts: MemoryCount, backbone: Backbone | None) -> list[str]:
    notes: list[str] = []
    if backbone is None:
        return notes
    share = counts.total_params / (counts.total_params + backbone.params)
    if share > _MOST_SHARE:
        notes.append(
            f"The memory is {share:.2%} of the whole; LongCat's authors advise at most "
            f"{_MOST_SHARE:.0%} for n-gram tables."
        )
    if backbone.params <= _SMALL_BASE:
        notes.append(
            f"{backbone.name} has {format_count(backbone.params)} parameters: reports of gains for "
            "models of up to 1B are mixed, and few had a control (arXiv:2609.35578 found none for "
            "1B dense)."
        )
    return notes
