"""`export_config`: a config as the fields of a training stack, and what it cannot express."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engram.addressing.multipliers import LAYER_STEP
from engram.addressing.primes import head_primes, stored_rows
from engram.arguments import checked
from engram.checkpoints.published.written_settings import written_values
from engram.config.engram_config import EngramConfig
from engram.config.templates import given_config
from engram.engines.training_stacks import STACKS, Form, Stack
from engram.errors import LayoutError, MissingFileError, UsageError
from engram.layouts.settings import Setting, write_settings
from engram.storage.files import check_file, write_json

SCHEMA = "engram.config-export/1"
_OF_THE_TOOLKIT = {"use_offload": False, "offload_cache_lines": 0}


@dataclass(frozen=True)
class Unexpressed:
    """Something of a memory that a stack cannot express.

    Attributes:
        key: The key of our config, or what it concerns.
        value: Its value; None for what differs in the stack whatever the config.
        why: The reason, and what the stack does instead.
    """

    key: str
    value: Any
    why: str


@dataclass(frozen=True)
class ExportedConfig:
    """A memory's config in a stack's terms.

    Attributes:
        source: The config, as it was named.
        to: Name of the stack.
        stack: The stack.
        layout: The memory's layout.
        fields: The stack's fields with their values, in its order.
        unexpressed: What the stack cannot express.
        needs: What the stack wants besides.
        output: The file that was written; None when none was.
    """

    source: str
    to: str
    stack: Stack
    layout: str
    fields: Mapping[str, Any]
    unexpressed: tuple[Unexpressed, ...]
    needs: tuple[str, ...]
    output: Path | None

    @property
    def text(self) -> str:
        """The fields as the stack takes them: flags, lines of YAML, or an object of JSON."""
        fields = self.fields
        if self.stack.style == "flags":
            return " \\\n".join(_filled(f"{name} {{{name}}}", fields) for name in fields)
        if self.stack.style == "yaml":
            return "\n".join(f"{name}: {json.dumps(value)}" for name, value in fields.items())
        lines = (f"  {json.dumps(name)}: {json.dumps(fields[name])}" for name in fields)
        return "{\n" + ",\n".join(lines) + "\n}"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram config export --json`` prints, and what a file of it holds."""
        return {
            "schema": SCHEMA,
            "source": self.source,
            "to": self.to,
            "title": self.stack.title,
            "layout": self.layout,
            "place": self.stack.place,
            "fields_from": self.stack.source,
            "status": self.stack.status,
            "fields": dict(self.fields),
            "not_expressed": list(map(asdict, self.unexpressed)),
            "needs": list(self.needs),
        }


@checked()
def export_config(
    source: str | Path | EngramConfig,
    to: str,
    *,
    tokenizer: str | Path | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
) -> ExportedConfig:
    """Write a memory's config as the fields of a training stack.

    Fields that nobody made public are not invented: layouts that a stack has none for are refused.

    Args:
        source: A config file, the name of a template, or a config.
        to: The stack: megatron, nemo, maxtext, transformers or vllm.
        tokenizer: Name or path of the tokenizer, for the compressed size and a pad that is named;
            the config's own when None.
        output: A JSON file for the answer; None writes nothing.
        overwrite: Replace a file that is there.

    Returns:
        The fields, and what the stack cannot express; `to_dict()` is what
        ``engram config export --json`` prints.

    Raises:
        UsageError: There is no such stack.
        LayoutError: The stack has no fields for the memory's layout.
        MissingFileError: There is no such config, or a field follows from a tokenizer that is not
            there.
        ConfigError: The config is wrong.
        InputError: Something is at the output that may not be replaced.

    Examples:
        >>> import engram
        >>> engram.export_config("demo", "maxtext").fields["engram_layers"]
        [1, 15]
    """
    if to not in STACKS:
        raise UsageError(f"Unknown stack {to!r}.", f"One of {', '.join(STACKS)}.")
    file = None if output is None else Path(output)
    if file is not None:
        check_file(file, overwrite)
    config = given_config(source)
    name = "a config" if isinstance(source, EngramConfig) else str(source)
    stack = STACKS[to]
    form = _form(stack, to, config.layout)
    values = _values(config, form.settings, tokenizer)
    written = write_settings(form.settings, values)
    fields = {**form.fixed, **{key: it for key, it in written.items() if it is not None}}
    exported = ExportedConfig(
        source=name,
        to=to,
        stack=stack,
        layout=config.layout,
        fields=fields,
        unexpressed=tuple(_unexpressed(config, form)),
        needs=tuple(_filled(need, {**values, **fields}) for need in form.needs),
        output=file,
    )
    if file is not None:
        write_json(file, exported.to_dict())
    return exported


def _form(stack: Stack, to: str, layout: str) -> Form:
    """Find the fields that a stack has for a layout.

    Raises:
        LayoutError: It has none.
    """
    if layout in stack.forms:
        return stack.forms[layout]
    others = [name for name, other in STACKS.items() if layout in other.forms]
    reason = stack.refused.get(layout, f"none of its public fields is for layout {layout}")
    raise LayoutError(
        f"{stack.title} has no public fields for a memory of layout {layout}: {reason}.",
        f"--to {to} is for {' and '.join(stack.forms)}; layout {layout} can be exported "
        f"{'to ' + ', '.join(others) if others else 'to none'}.",
        to=to,
        layout=layout,
        reason=reason,
    )


def _values(
    config: EngramConfig, settings: tuple[Setting, ...], tokenizer: str | Path | None
) -> dict[str, Any]:
    """Work out what fields mean; a tokenizer is read only where a field follows from it."""
    primes = head_primes(config)
    asked = {setting.ours for setting in settings}
    pad, compressed = config.pad_id, None
    if "compressed_vocab_size" in asked or ("pad_id" in asked and not isinstance(pad, int)):
        pad, compressed = _of_tokenizer(config, tokenizer)
    values = written_values(
        config,
        stored_rows=[stored_rows(heads, config.row_multiple) for heads in primes.values()],
        compressed_vocab_size=compressed,
        pad_id=pad if isinstance(pad, int) else None,
    )
    if tokenizer is not None:
        values["tokenizer"] = str(tokenizer)
    values["rows_of_heads"] = list(config.rows_per_head)
    values["seed_from_one"] = config.seed - LAYER_STEP
    if config.rules.prime_order == "sorted":
        values["layer_ids"] = sorted(config.layer_ids)
    # A block is two layers of a hybrid stack, counted from 1; the memory is before the first one.
    values["hybrid_layers"] = [2 * block + 1 for block in values["layer_ids"]]
    return values


def _of_tokenizer(
    config: EngramConfig, tokenizer: str | Path | None
) -> tuple[int | str | None, int]:
    """The token id of the pad, and the size of the compressed vocabulary.

    Raises:
        MissingFileError: There is no tokenizer, and the layout knows none of that length.
    """
    from engram.corpus.hash.hash_text import find_memory

    try:
        config, file, addresses = find_memory(config, tokenizer)
    except MissingFileError as error:
        known = {c for v, c in config.rules.known_maps if v == config.engram_vocab_size}
        if tokenizer is None and len(known) == 1 and isinstance(config.pad_id, int):
            return config.pad_id, known.pop()  # of the release
        raise MissingFileError(
            f"The compressed vocabulary and the pad follow from the tokenizer. {error.message}",
            "Name the model's tokenizer: -t TOKENIZER (in Python, tokenizer=TOKENIZER)",
        ) from error
    pad = config.pad_id
    if isinstance(pad, str):
        pad = file.tokenizer.token_to_id(pad)
    return (file.pad_id if pad is None else pad), addresses.vocab_size


def _unexpressed(config: EngramConfig, form: Form) -> Iterator[Unexpressed]:
    """List what a stack cannot express of a config."""
    for key, (is_built_in, why) in form.built_in.items():
        value = getattr(config, key)
        if not is_built_in(value):
            yield Unexpressed(key, value, why)
    for key, usual in _OF_THE_TOOLKIT.items():
        value = getattr(config, key)
        if value != usual:
            yield Unexpressed(key, value, "it is of this toolkit's module alone")
    for what, why in form.differs.items():
        yield Unexpressed(what, None, why)


def _filled(text: str, values: Mapping[str, Any]) -> str:
    """Put values for names in braces; those of a list stand apart."""
    for name, value in values.items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        text = text.replace(f"{{{name}}}", shown)
    return text
