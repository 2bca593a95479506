"""Fill in the parts of the documentation that are made from the toolkit itself (a hook of mkdocs).

A line such as ``<!-- made: commands -->`` in a page under docs/ is replaced by what the function of
that name in `MADE` returns, so that the page says what the toolkit does. Two pages are the files
of the project's root.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

import engram
import engram.evaluation
import engram.pictures
import engram.training
from engram.config.templates import load_template, template_names, template_title
from engram_cli import main as cli

ROOT = Path(__file__).resolve().parent.parent
# Pages of the site that are files of the project's root.
ROOT_PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_MARKER = re.compile(r"^<!-- made: ([a-z ]+) -->$", re.MULTILINE)
# Characters that Markdown would take for its own.
_SPECIAL = re.compile(r"([\\*_\[\]|])")
_CODE = re.compile(r"(`[^`]*`)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are files of the project's root; mkdocs calls this once."""
    from mkdocs.structure.files import File

    for page, name in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=root_page(name)))
    return files


def root_page(name: str) -> str:
    """Return a file of the project's root with its links as those of a page of the site."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
    for page, file in ROOT_PAGES.items():
        text = text.replace(f"]({file})", f"]({page})")
    return text


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in a page; mkdocs calls this for every one."""
    return _MARKER.sub(lambda match: MADE[match[1]](), markdown)


def commands() -> str:
    """Return the reference of all commands, made from their help."""
    return "\n".join(part for words, command in each_command() for part in _command(words, command))


def each_command() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command and subcommand with the words that call it."""
    root = typer.main.get_command(cli.app)
    for name in root.list_commands(None):
        command = root.get_command(None, name)
        yield (name,), command
        for child, subcommand in getattr(command, "commands", {}).items():
            yield (name, child), subcommand


def names(door: ModuleType) -> str:
    """Return an entry for every public name of a package, which mkdocstrings fills."""
    return "\n\n".join(f"::: {door.__name__}.{name}" for name in door.__all__)


def config_keys() -> str:
    """Return the table of config keys, with the sentence that each has in every config file."""
    rows = [
        f"| `{item.name}` | {_prose(item.metadata['doc'])} |"
        for item in fields(engram.EngramConfig)
    ]
    return "\n".join(["| key | is |", "|---|---|", *rows])


def templates() -> str:
    """Return the table of templates."""
    lines = ["| template | layout | is |", "|---|---|---|"]
    for name in template_names():
        title = _prose(template_title(name))
        lines.append(f"| `{name}` | `{load_template(name).layout}` | {title} |")
    return "\n".join(lines)


def _command(words: tuple[str, ...], command: Any) -> Iterator[str]:
    called = " ".join(("engram", *words))
    context = typer.Context(command, info_name=called, **command.context_settings)
    yield f"\n{'#' * (len(words) + 1)} {called}\n"
    yield f"```text\n{' '.join((called, *command.collect_usage_pieces(context)))}\n```\n"
    yield f"{_prose(command.help)}\n"
    arguments = [
        (param.metavar or param.name.upper(), param.help or "")
        for param in command.params
        if param.param_type_name == "argument"
    ]
    options = [
        record
        for param in command.get_params(context)
        if param.param_type_name == "option" and (record := param.get_help_record(context))
    ]
    for title, records in (("argument", arguments), ("option", options)):
        if records:
            yield f"| {title} | |\n|---|---|"
            yield "\n".join(f"| `{name}` | {_prose(text)} |" for name, text in records) + "\n"
    if command.epilog:
        yield f"Examples:\n\n```console\n{command.epilog}\n```\n"


def _prose(text: str) -> str:
    """Return a text of the help as Markdown that says the same."""
    parts = _CODE.split(text)
    return "".join(
        part if index % 2 else _SPECIAL.sub(r"\\\1", html.escape(part, quote=False))
        for index, part in enumerate(parts)
    )


MADE: dict[str, Callable[[], str]] = {
    "commands": commands,
    "config keys": config_keys,
    "evaluation": partial(names, engram.evaluation),
    "library": partial(names, engram),
    "pictures": partial(names, engram.pictures),
    "templates": templates,
    "training": partial(names, engram.training),
}
