"""Classes that are made on the spot, and objects of them that can be pickled all the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def mixed(mixin: Any, base: Any) -> Any:
    """Return the class that puts a mixin before a class, under the class's own name.

    Wrapping policies and lists of targets name classes, so it is the base's name that counts.

    Args:
        mixin: What is to come first.
        base: A class that others know.

    Returns:
        The same class for the same pair.
    """
    made_again = made_again_by(mixed, mixin, base)
    members = {"__module__": base.__module__, "__reduce_ex__": made_again}
    return type(base.__name__, (mixin, base), members)


def class_after(kind: Any, mixin: Any) -> Any:
    """Return the class that a mixin was put before.

    Args:
        kind: A class that `mixed` returned, or one below it.
        mixin: The mixin.
    """
    order = kind.__mro__
    return order[order.index(mixin) + 1]


def made_again_by(make: Callable[..., Any], *arguments: Any) -> Callable[[Any, int], Any]:
    """Return a ``__reduce_ex__`` for a class that pickle cannot find by its name.

    Args:
        make: A function of a module that returns the class.
        *arguments: What it takes, all of which can be pickled.
    """

    def reduce(self: Any, protocol: int) -> Any:
        state = object.__reduce_ex__(self, max(protocol, 2))[2:]
        return _make_object, (make, arguments), *state

    return reduce


def _make_object(make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    kind = make(*arguments)
    return kind.__new__(kind)
