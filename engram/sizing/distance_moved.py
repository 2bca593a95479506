"""`distance_moved`: how far an optimiser moves the rows of a table that it touches so often."""

import math
from collections.abc import Callable, Mapping

from engram.sizing.optimizers import Optimizer

# Movement of a row in sizes of its start, below which a table stays about as random as it was.
MOVED = 0.5
_MOMENTUM, _BETA1, _BETA2, _ROW_BETA2 = 0.9, 0.9, 0.999, 0.99


def distance_moved(touches: float, table_lr: float, rule: Optimizer) -> float:
    """Return how far touches move a row, at most, for gradients of one size and direction.

    A row moves by the root mean square of its values' changes. Rules that divide by the size of the
    gradients move it by about the learning rate at a touch, more while their means of squares are
    young; row-wise Adagrad by ever less. Under sgd and momentum gradients of size 1 are taken,
    which is more than clipping to norm 1 leaves.

    Args:
        touches: Touches of the row; or their average, over rows.
        table_lr: Learning rate of the table, without a schedule.
        rule: The optimiser; its settings are the defaults of torch and of
            `engram.training.MemoryOptimizer`.
    """
    return table_lr * _STEPS[rule](touches)


def _young_mean(touches: float, beta2: float) -> float:
    """Bound the sum of ``1 / sqrt(1 - beta2^k)`` over touches k by its integral from 0."""
    decay = -math.log(beta2)
    return touches + 2 / decay * math.log1p(math.sqrt(-math.expm1(-decay * touches)))


def _adagrad(touches: float) -> float:
    """The k-th touch moves a row by ``1 / sqrt(k)``."""
    return min(touches, 2 * math.sqrt(touches))


def _rmsprop(touches: float) -> float:
    """The mean starts at zero and is not corrected."""
    return min(touches / math.sqrt(1 - _ROW_BETA2), _young_mean(touches, _ROW_BETA2))


# A row's means, both young, are corrected for the steps of the run, not for its own touches.
_SPARSE_ADAM_MOST = max((1 - _BETA1**k) / math.sqrt(1 - _BETA2**k) for k in range(1, 100))


def _sparse_adam(touches: float) -> float:
    return min(touches * _SPARSE_ADAM_MOST, _young_mean(touches, _BETA2))


def _adam(touches: float) -> float:
    """A touch goes on to move its row, by ever less, in the steps that do not touch it."""
    first = (1 - _BETA1) / math.sqrt(1 - _BETA2)
    return touches * first / (1 - _BETA1 / math.sqrt(_BETA2))


def _momentum(touches: float) -> float:
    """A touch goes on to move its row at later ones."""
    return touches / (1 - _MOMENTUM)


_STEPS: Mapping[Optimizer, Callable[[float], float]] = {
    "adam": _adam,
    "momentum": _momentum,
    "sgd": lambda touches: touches,
    "rowwise-adagrad": _adagrad,
    "rowwise-rmsprop": _rmsprop,
    "sparse-adam": _sparse_adam,
    "sparse-momentum": _momentum,
}
