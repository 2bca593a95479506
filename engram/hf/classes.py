"""Makes classes at run time whose objects can still be pickled."""

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def mixed(mixin: Any, base: Any) -> Any:
    """Return a class that derives from a mixin and a class, with the class's own name.

    The name stays because wrapping policies and lists of targets refer to classes by name.

    Args:
        mixin: The first base.
        base: The class to extend.

    Returns:
        The same class for the same pair.
    """
    made_again = made_again_by(mixed, mixin, base)
    members = {"__module__": base.__module__, "__reduce_ex__": made_again}
    return type(base.__name__, (mixin, base), members)


def class_after(kind: Any, mixin: Any) -> Any:
    """Return the class that was combined with a mixin.

    Args:
        kind: A class that `mixed` returned, or a subclass of one.
        mixin: The mixin.
    """
    order = kind.__mro__
    return order[order.index(mixin) + 1]


def made_again_by(make: Callable[..., Any], *arguments: Any) -> Callable[[Any, int], Any]:
    """Return a ``__reduce_ex__`` for a class that pickle cannot find by its name.

    Args:
        make: A module-level function that returns the class.
        *arguments: Its arguments, which can be pickled.
    """

    def reduce(self: Any, protocol: int) -> Any:
        state = object.__reduce_ex__(self, max(protocol, 2))[2:]
        return _make_object, (make, arguments), *state

    return reduce


def _make_object(make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    kind = make(*arguments)
    return kind.__new__(kind)
