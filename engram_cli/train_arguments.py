"""Arguments of transformers' Trainer, from a YAML file and from ``--set KEY=VALUE``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engram.config.config_file import read_values
from engram.config.strict_yaml import parse_mapping
from engram.errors import UsageError

_HINT = (
    "It holds one argument a line, such as logging_steps: 10; see transformers.TrainingArguments."
)


def read_arguments(file: Path | None, settings: Sequence[str]) -> dict[str, Any]:
    """Read arguments; those of ``--set`` come before the file's.

    Args:
        file: A YAML file; None without one.
        settings: Texts KEY=VALUE, each value as YAML.

    Raises:
        UsageError: A text has another form.
        ConfigError: The file is not a mapping.
        MissingFileError: There is no such file.
    """
    found = {} if file is None else read_values(file, _HINT, _HINT)
    for text in settings:
        key, equals, value = text.partition("=")
        read = parse_mapping(f"{key}: {value}") if equals and key.isidentifier() else None
        if read is None or read.problems or key not in read.values:
            raise UsageError(
                f"--set {text!r} is not KEY=VALUE.", "Such as --set report_to=tensorboard."
            )
        found[key] = read.values[key]
    return found
