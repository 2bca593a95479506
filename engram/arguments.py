"""Checks what callers give to public functions and options against their own annotations.

The command line reads text and refuses what is not meant; a call from Python has nothing before it.
"""

import builtins
import functools
import inspect
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
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
        annotations, names = function.__annotations__, function.__globals__

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                if name in annotations and signature.parameters[name].kind not in _VARIADIC:
                    _check(name, value, _as_type(annotations[name], names), least)
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
    for field in fields(options):
        home = next(it for it in type(options).__mro__ if field.name in inspect.get_annotations(it))
        hint = _as_type(field.type, vars(inspect.getmodule(home)))
        _check(field.name, getattr(options, field.name), hint, least)


def _as_type(annotation: Any, names: Mapping[str, Any]) -> Any:
    """Return an annotation as a type; a name that is there for type checkers alone means anything.

    Args:
        annotation: The type, or the text of it.
        names: The names of the module that states it.
    """
    if not isinstance(annotation, str):
        return annotation
    known = ChainMap(dict(names), vars(builtins), _Anything())
    return eval(annotation, {}, known)  # text of this package's own source


class _Anything(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return Any


def _check(name: str, value: Any, hint: Any, least: Mapping[str, int]) -> None:
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


def _accepts(hint: Any, value: object) -> bool:
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
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            return False
        return all(_accepts(parts[0], item) for item in value)
    if inspect.isclass(origin) and issubclass(origin, Collection):
        return isinstance(value, origin)
    if origin is not None:
        return callable(value) if "Callable" in str(origin) else True
    is_protocol = getattr(hint, "_is_protocol", False)
    return isinstance(value, hint) if inspect.isclass(hint) and not is_protocol else True


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


def _number_in(value: object) -> str:
    """Return the next step for somebody who gave the text of a number."""
    if not isinstance(value, str):
        return ""
    for parse in (parse_count, parse_bytes):
        with suppress(EngramError):
            return f"Give the number itself: {parse(value):_}."
    return ""
