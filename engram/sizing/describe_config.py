"""`describe_config`: a config with every default, and the numbers that follow from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.addressing.primes import head_primes, stored_rows
from engram.arguments import checked
from engram.config.config_file import read_config
from engram.config.engram_config import EngramConfig
from engram.config.templates import find_config
from engram.storage.dtypes import row_bytes


@dataclass(frozen=True, repr=False)
class ConfigFacts:
    """A config, and what follows from it.

    Attributes:
        path: Its file; None for one in memory.
        config: The config as the file states it, with every default filled in.
    """

    path: str | None
    config: EngramConfig

    def __repr__(self) -> str:
        return f"<ConfigFacts: {self.path or 'in memory'}, layout {self.config.layout}>"

    @property
    def derived(self) -> dict[str, Any]:
        """Exact rows, widths, and what one token reads."""
        config = self.config
        rows_per_token, dtype = config.n_columns * len(config.layer_ids), config.stored_dtype()
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

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram config show --json`` prints."""
        return {
            "schema": "engram.config/1",
            "path": self.path,
            "config": self.config.to_dict(),
            "derived": self.derived,
        }


@checked()
def describe_config(source: str | Path | EngramConfig) -> ConfigFacts:
    """Read a config and work out the numbers that follow from it.

    Args:
        source: A file, the name of a template, or a config.

    Returns:
        The config and its numbers; `to_dict()` is what ``engram config show --json`` prints.

    Raises:
        ConfigError: Everything that is wrong with the config.
        MissingFileError: There is neither such a template nor such a file.

    Examples:
        >>> import engram
        >>> engram.describe_config("gpt2").derived["rows_per_token"]
        32
    """
    if isinstance(source, EngramConfig):
        return ConfigFacts(None, source)
    path = find_config(source)
    return ConfigFacts(str(path), read_config(path))
