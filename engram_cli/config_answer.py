"""What `engram config` answers: whether files are right, and what follows from a config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.addressing.token_doubts import token_doubts
from engram.config.config_doubts import config_doubts
from engram.config.config_file import read_config
from engram.config.engram_config import EngramConfig
from engram.config.templates import find_config, load_config
from engram.errors import ConfigError, EngramError
from engram.units import plural
from engram_cli.errors import failure_of

if TYPE_CHECKING:
    from rich.console import Console

    from engram.addressing.tokenizer_files import TokenizerFile
    from engram.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a config is right.

    Attributes:
        path: The file, or what was given instead of one.
        text: The verdict for people.
        problems: What is wrong: key, message and line.
        warnings: What is right, but hardly meant.
        hint: What to do about the problems, where the text does not say so.
        exit_code: What a command ends with: 0, 3 for a problem, 4 for what is not there.
    """

    path: str
    text: str
    problems: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    hint: str = ""
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict in the terms of `--json`."""
        return {
            "path": self.path,
            "ok": not self.exit_code,
            "problems": list(self.problems),
            "warnings": list(self.warnings),
        }


def check_config(source: str, backbone: Backbone | None = None) -> Verdict:
    """Check the config of a file or template; whatever is wrong with it is the answer.

    Args:
        source: The file or template.
        backbone: The model that it is meant for, if that is known.
    """
    path = source
    try:
        path = str(find_config(source))
        config = read_config(path)
        if backbone is not None:
            from engram.sizing.shape import check_backbone

            check_backbone(config, backbone, path)
        tokenizer = _tokenizer(load_config(source))
        warnings = [*config_doubts(config), *token_doubts(config, tokenizer)]
    except ConfigError as error:
        problems = tuple(error.details["problems"])
        return Verdict(
            path=path,
            text=error.message,
            problems=problems,
            hint=error.hint,
            exit_code=error.exit_code,
        )
    except (EngramError, OSError) as error:
        failure = failure_of(error)
        problem = {"key": "", "message": failure.message, "line": None}
        text = f"{failure.message} {failure.hint}"
        return Verdict(path=path, text=text, problems=(problem,), exit_code=failure.exit_code)
    doubts = f", with {plural(len(warnings), 'warning')}" if warnings else ""
    return Verdict(path=path, text=f"{path}: ok{doubts}", warnings=tuple(warnings))


def _tokenizer(config: EngramConfig) -> TokenizerFile | None:
    """Read a config's tokenizer if it is a file or folder here; the hub is not asked."""
    if config.tokenizer is None or not Path(config.tokenizer).expanduser().exists():
        return None
    from engram.addressing.tokenizer_files import load_tokenizer

    try:
        return load_tokenizer(config.tokenizer)
    except EngramError:
        return None


def derived(config: EngramConfig) -> dict[str, Any]:
    """Return what follows from a config: exact rows, widths, and what one token reads."""
    from engram.addressing.primes import head_primes, stored_rows
    from engram.config.table_dtype import table_dtype
    from engram.storage.dtypes import row_bytes

    rows_per_token, dtype = config.n_columns * len(config.layer_ids), table_dtype(config)
    return {
        "k": [size / config.engram_vocab_size for size in config.engram_table_size],
        "engram_table_size": config.engram_table_size,
        "rows_per_head": config.rows_per_head,
        "row_width": config.row_width,
        "memory_width": config.memory_width,
        "layers": [
            {"layer_id": layer_id, "rows": stored_rows(primes, config.row_multiple)}
            for layer_id, primes in head_primes(config).items()
        ],
        "rows_per_token": rows_per_token,
        "bytes_per_token": rows_per_token * row_bytes(config.row_width, dtype.name),
        "table_dtype": dtype.name,
        "table_dtype_from": dtype.origin,
    }


def show_derived(console: Console, numbers: dict[str, Any]) -> None:
    """Print what follows from a config, as comments of the YAML above it."""
    from rich.table import Table

    from engram.config.table_dtype import TableDtype

    def each(values: list[Any]) -> str:
        return ", ".join(f"{value:,}" for value in values)

    rows = {
        "k": f"{', '.join(f'{k:.6g}' for k in numbers['k'])} times the vocabulary per order",
        "rows per ORDER": f"{each(numbers['engram_table_size'])} (engram_table_size)",
        "rows per HEAD": f"{each(numbers['rows_per_head'])} (rounded up to primes)",
        "row width": f"{numbers['row_width']:,} columns",
        "memory width": f"{numbers['memory_width']:,} values a token and layer",
        **{
            f"rows of layer {layer['layer_id']}": f"{layer['rows']:,} stored"
            for layer in numbers["layers"]
        },
        "reads per token": f"{numbers['rows_per_token']:,} rows, {numbers['bytes_per_token']:,} B "
        f"in {TableDtype(numbers['table_dtype'], numbers['table_dtype_from'])}",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row("#", name, value)
    console.print(table)
