"""`taking`: a command's parameter that is an object of the library, each field of it an option."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

# The declared options by name; a class's own names and defaults stay its own.
Options = Mapping[str, Any]


def taking(**declared: Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Have the command line make the object that a parameter of a command is.

    Args:
        **declared: By name of the command's parameter: the options to make it of, as `Annotated`
            types by name of an argument of its class. Their defaults are the class's.

    Returns:
        A decorator; what it returns has the options where the parameter was.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        classes = {name: signature.parameters[name].annotation for name in declared}

        @wraps(command)
        def run(**values: Any) -> None:
            made = {
                name: kind(**{option: values.pop(option) for option in declared[name]})
                for name, kind in classes.items()
            }
            command(**values, **made)

        parameters = _expanded(signature, classes, declared)
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=list(parameters)
        )
        return run

    return decorate


def _expanded(
    signature: inspect.Signature, classes: Mapping[str, Any], declared: Mapping[str, Options]
) -> Iterator[inspect.Parameter]:
    for name, parameter in signature.parameters.items():
        if name not in declared:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        known = inspect.signature(classes[name]).parameters
        for option, annotation in declared[name].items():
            yield known[option].replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
