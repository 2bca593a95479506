"""`TextOptions`: the rules by which a text becomes tokens, and tokens become shards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engram.arguments import check_fields
from engram.corpus.text.documents import Split
from engram.errors import UsageError

OnError = Literal["stop", "skip"]
SHARD_TOKENS = 2**22
# The name of standard input.
STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Rules by which a text becomes a corpus; its bytes follow from them and the text alone.

    Attributes:
        add_eos: Whether every document ends with the end-of-text token; it does when None.
        split: What ends a document of plain text: ``paragraph`` (blank lines) when None.
        text_key: Key of the text in JSON records, or column of a .parquet; ``text`` when None.
        on_error: Whether a document that cannot be read is an error, or skipped and listed.
        shard_tokens: Tokens that fill a shard.

    Raises:
        UsageError: An option is none of its choices, of another type, or too small.
    """

    add_eos: bool | None = None
    split: Split | None = None
    text_key: str | None = None
    on_error: OnError = "stop"
    shard_tokens: int = SHARD_TOKENS

    def __post_init__(self) -> None:
        check_fields(self, shard_tokens=1)

    def refuse_for_tokens(self, folder: str | Path, has_columns: bool = False) -> None:
        """Check that no rule is given for a folder that holds tokens.

        Args:
            folder: The folder.
            has_columns: Whether its tokens are a column, which `text_key` may name.

        Raises:
            UsageError: One is.
        """
        given = (self.add_eos, None if has_columns else self.text_key, self.split)
        if given != (None, None, None) or self.on_error != "stop":
            column = "" if has_columns else "--text-column, "
            raise UsageError(
                f"{folder} holds tokens: --eos, --no-eos, {column}--split and --on-error are for "
                "text.",
                "Leave them out: they were chosen when it was built.",
            )

    @property
    def adds_eos(self) -> bool:
        """Whether every document ends with the end-of-text token."""
        return self.add_eos is not False

    @property
    def splits_by(self) -> Split:
        """The end of a document of plain text, with its default."""
        return self.split or "paragraph"
