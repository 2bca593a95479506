"""Checks what callers give to public functions and options against their own annotations.

The command line reads text and refuses what is not meant; a call from Python has nothing before it.
"""

import builtins
import functools
import inspect
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from engram.errors import EngramError, UsageError
from engram.units import parse_bytes, parse_count

P = ParamSpec("P")
T = TypeVar("T")
_NUMBERS: dict[Any, Any] = {int: Integral, float: Real}
_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}


def checked(**least: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a function refuse arguments that are not of the types that it states.

    Args:
        **least: By argument: the smallest number that it may be.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        hints = _Hints(function.__annotations__, function.__globals__)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            given = signature.bind(*args, **kwargs).arguments
            for name, value in given.items():
                if signature.parameters[name].kind not in _VARIADIC:
                    _check(name, value, hints, least)
            return function(*args, **kwargs)

        return call

    return decorate


def check_fields(options: Any, **least: int) -> None:
    """Check the values of a dataclass.

    Args:
        options: The dataclass; those of its parents count too.
        **least: By field: the smallest number that it may be.

    Raises:
        UsageError: A value is of another type than its field, none of its choices, or too small.
    """
    for part in reversed(type(options).__mro__):
        own = vars(part).get("__annotations__", {})
        if own:
            hints = _Hints(own, vars(inspect.getmodule(part)))
            for name in own.keys() & {field.name for field in fields(options)}:
                _check(name, getattr(options, name), hints, least)


class _Hints(Mapping[str, Any]):
    """Annotations as types, worked out when they are asked for.

    A name that is there for type checkers alone means anything.
    """

    def __init__(self, annotations: Mapping[str, Any], names: Mapping[str, Any]) -> None:
        self._annotations, self._names = annotations, names

    def __getitem__(self, name: str) -> Any:
        stated = self._annotations[name]
        if not isinstance(stated, str):
            return stated
        known = ChainMap(dict(self._names), vars(builtins), _Anything())
        return eval(stated, {}, known)  # text of this package's own source

    def __iter__(self) -> Iterator[str]:
        return iter(self._annotations)

    def __len__(self) -> int:
        return len(self._annotations)


class _Anything(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return Any


def _check(name: str, value: Any, hints: Mapping[str, Any], least: Mapping[str, int]) -> None:
    hint = hints.get(name, Any)
    if not _accepts(hint, value):
        shown = repr(value)
        if len(shown) > 60:
            shown = f"{shown[:57]}..."
        raise UsageError(
            f"{name} must be {_words(hint)}, got {shown} ({type(value).__name__}).",
            _number_in(value) if _accepts(hint, 1) else "",
            argument=name,
        )
    if name in least and value is not None and value < least[name]:
        raise UsageError(f"{name} must be >= {least[name]}, got {value}.", argument=name)


def _accepts(hint: Any, value: Any) -> bool:
    """Whether a value is of a type; other types are not checked."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if hint is None or hint is NoneType:
        return value is None
    if origin in (Union, UnionType):
        return any(_accepts(part, value) for part in parts)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in parts)
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint]) and not isinstance(value, bool)
    if origin is Sequence:
        is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        return is_list and all(_accepts(parts[0], item) for item in value)
    if inspect.isclass(origin) and issubclass(origin, Collection):
        return isinstance(value, origin)
    if origin is not None:
        return callable(value) if "Callable" in str(origin) else True
    return isinstance(value, hint) if inspect.isclass(hint) and not _is_protocol(hint) else True


def _is_protocol(hint: Any) -> bool:
    return bool(getattr(hint, "_is_protocol", False))


def _words(hint: Any) -> str:
    """Describe a type to somebody who gave another one."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_words(part) for part in parts))
    if origin is Literal:
        return f"one of {', '.join(repr(part) for part in parts)}"
    if hint is None or hint is NoneType:
        return "None"
    if origin is Sequence:
        return f"a list (of each: {_words(parts[0])})"
    if "Callable" in str(origin):
        return "a function"
    name = getattr(hint, "__name__", str(hint))
    return _WORDS.get(hint) or f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


def _number_in(value: Any) -> str:
    """Return the next step for somebody who gave the text of a number."""
    if not isinstance(value, str):
        return ""
    for parse in (parse_count, parse_bytes):
        with suppress(EngramError):
            return f"Give the number itself: {parse(value):_}."
    return ""
