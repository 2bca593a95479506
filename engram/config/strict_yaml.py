"""Strict YAML: one mapping, read with the line of every key, without YAML's risky features.

Scalars follow YAML 1.2: `1e-20` is a number, `no` is a string, `0777` is not octal. Anchors,
aliases, deep nesting and duplicate keys are reported as problems.
"""

import re
from dataclasses import dataclass
from typing import Any

import yaml

from engram.errors import Problem

_MAX_DEPTH = 8

# The likely mistake for a part of PyYAML's message; the first match is reported.
_LIKELY = (
    (
        "mapping values are not allowed",
        "the line is not indented like the keys around it, or has a second colon, or the line "
        "above lacks the colon and space after its key",
    ),
    (
        "could not find expected ':'",
        "the line above is not a `key: value` line: its colon is missing",
    ),
    ("<block mapping start>", "the lines above are indented differently from this one"),
    ("block collection", "a list and `key: value` lines are mixed"),
    ("quoted scalar", "a quotation mark is not closed, or there is a backslash in double quotes"),
    ("flow ", "a bracket or brace is not closed, or a comma is missing"),
    (
        "block mapping",
        "the line is not indented like the keys around it, or has a bracket too many",
    ),
    ("cannot start any token", "a string that begins with this character needs quotes"),
    ("single document", "the file has a second document, after a line ---"),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2 and without references."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(
                problem="anchors (&) and aliases (*) are not allowed: write the value itself",
                problem_mark=event.start_mark,
            )
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {_MAX_DEPTH} deep", problem_mark=event.start_mark
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    """Read a string; join the two halves that JSON writes for characters beyond U+FFFF."""
    return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


_Loader.add_constructor("tag:yaml.org,2002:str", _text)

# The first characters by which PyYAML finds the pattern; "" means an absent value.
for _kind, _first, _pattern in (
    ("bool", [*"tTfF"], r"true|True|TRUE|false|False|FALSE"),
    ("null", [*"~nN", ""], r"~|null|Null|NULL|"),
    ("int", [*"-+0123456789"], r"[-+]?(?:0|[1-9][0-9_]*)"),
    (
        "float",
        [*"-+.0123456789"],
        r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
        r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), _first
    )


@dataclass(frozen=True)
class Mapping:
    """The contents of a file.

    Attributes:
        values: Value by key.
        lines: 1-based line by key.
        problems: The problems found; their keys are missing in `values`.
    """

    values: dict[str, Any]
    lines: dict[str, int]
    problems: list[Problem]


def parse_mapping(text: str) -> Mapping:
    """Read YAML (or JSON) text whose top level is a mapping; problems are returned, not raised."""
    found = Mapping({}, {}, [])
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        found.problems.append(_problem("", error, text))
        return found
    if node is None:
        found.problems.append(Problem("", "the file is empty"))
    elif not isinstance(node, yaml.MappingNode):
        message = "not a mapping of `key: value` lines"
        found.problems.append(Problem("", message, node.start_mark.line + 1))
    else:
        for key_node, value_node in node.value:
            _read_pair(loader, key_node, value_node, found)
    return found


def _read_pair(loader: _Loader, key_node: yaml.Node, value_node: yaml.Node, found: Mapping) -> None:
    line = key_node.start_mark.line + 1
    if not isinstance(key_node, yaml.ScalarNode):
        found.problems.append(Problem("", "a key must be a plain string", line))
        return
    key = str(key_node.value)
    if key in found.lines:
        message = f"given twice; the first is on line {found.lines[key]}"
        found.problems.append(Problem(key, message, line))
        return
    found.lines[key] = line
    try:
        found.values[key] = loader.construct_object(value_node, deep=True)
    except yaml.YAMLError as error:
        found.problems.append(_problem(key, error))
    except ValueError:  # a number with more digits than Python reads
        found.problems.append(Problem(key, f"{value_node.value[:20]}... has too many digits", line))


def parse_value(text: str) -> Any:
    """Read one YAML value, such as ``[1, 6]`` or ``1e-20``.

    Raises:
        ValueError: The text is not one YAML value.
    """
    found = parse_mapping(f"value: {text}")
    if found.problems or list(found.values) != ["value"]:
        raise ValueError(found.problems[0].message if found.problems else "more than one value")
    return found.values["value"]


def _problem(key: str, error: yaml.YAMLError, text: str = "") -> Problem:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        if "'\\t'" in message:
            message = "a tab, which YAML does not allow here; use spaces"
        else:
            likely = next((cause for part, cause in _LIKELY if part in message), None)
            message = f"{likely} (YAML: {message})" if likely else message
        return Problem(key, message, mark.line + 1 if mark else None)
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return Problem(key, f"character #x{error.character:04x} is not allowed", line)
    return Problem(key, str(error))
