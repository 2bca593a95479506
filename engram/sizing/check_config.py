"""`check_config`: whether a config is right, with every problem and what is hardly meant."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.arguments import checked
from engram.backbone import Backbone, given_backbone
from engram.config.config_file import read_config
from engram.config.engram_config import EngramConfig
from engram.config.templates import find_config, load_config
from engram.errors import ConfigError, EngramError
from engram.sizing.shape import check_backbone
from engram.units import plural


@dataclass(frozen=True, kw_only=True, repr=False)
class ConfigVerdict:
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

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.exit_code

    def __repr__(self) -> str:
        return f"<ConfigVerdict: {self.text}>"

    def to_dict(self) -> dict[str, Any]:
        """Return one of the files that ``engram config check --json`` prints."""
        return {
            "path": self.path,
            "ok": self.ok,
            "problems": list(self.problems),
            "warnings": list(self.warnings),
        }


@checked()
def check_config(source: str | Path, model: str | Path | Backbone | None = None) -> ConfigVerdict:
    """Check the config of a file or template; whatever is wrong with it is the answer.

    Args:
        source: The file, or the name of a template.
        model: The base model that it is meant for: layers, widths and vocabulary are compared.

    Returns:
        The verdict; `to_dict()` is one of the files that ``engram config check --json`` prints.

    Raises:
        MissingFileError: There is no such model.
        OSError: The file cannot be read.

    Examples:
        >>> import engram
        >>> engram.check_config("gpt2", model="gpt2").problems
        ()
    """
    backbone = given_backbone(model)
    path = str(source)
    try:
        path = str(find_config(source))
        config = read_config(path)
        if backbone is not None:
            check_backbone(config, backbone, path)
        warnings = [*_layer_doubts(config), *config.doubts, *_token_doubts(load_config(source))]
    except EngramError as error:
        is_all = isinstance(error, ConfigError)
        whole = {"key": "", "message": error.message, "line": None}
        return ConfigVerdict(
            path=path,
            text=error.message if is_all else f"{error.message} {error.hint}",
            problems=tuple(error.details["problems"]) if is_all else (whole,),
            hint=error.hint if is_all else "",
            exit_code=error.exit_code,
        )
    doubts = f", with {plural(len(warnings), 'warning')}" if warnings else ""
    return ConfigVerdict(path=path, text=f"{path}: ok{doubts}", warnings=tuple(warnings))


def _layer_doubts(config: EngramConfig) -> list[str]:
    """Return a warning about a config that commands which read a memory will refuse."""
    if config.layer_ids:
        return []
    return ["layer_ids names no layer: engram hash, report and attach need at least one."]


def _token_doubts(config: EngramConfig) -> list[str]:
    """Return warnings about the pad of a config whose tokenizer is here; the hub is not asked."""
    path, pad_id = config.tokenizer, config.pad_id
    if path is None or pad_id is None or not Path(path).expanduser().exists():
        return []
    from engram.addressing.tokenizer_files import load_tokenizer

    try:
        tokenizer = load_tokenizer(path)
    except EngramError:
        return []
    tokens, name = tokenizer.tokenizer, tokenizer.name
    number = tokens.token_to_id(pad_id) if isinstance(pad_id, str) else pad_id
    if number is None:
        return [f"pad_id {pad_id!r} is not a token of {name}."]
    special = {i for i, token in tokens.get_added_tokens_decoder().items() if token.special}
    if number in special | {tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id}:
        return []
    return [
        f"pad_id {number} is {tokens.id_to_token(number)!r} in {name}, an ordinary token of texts: "
        "the start of a document reads the same rows as that token."
    ]
