"""`HashOptions`: what of a text is hashed and counted, and the form of the ids that are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engram.arguments import check_fields
from engram.corpus.text.text_options import SHARD_TOKENS, TextOptions
from engram.errors import UsageError

Format = Literal["npy", "parquet"]
_CACHE_TOKENS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class HashOptions(TextOptions):
    """Options of `engram.hash_text`, with those of the text.

    Attributes:
        layers: Those of the memory's layers that are hashed, all when None.
        check: Compare the digests of all files of token shards before they are read.
        predict: Tokens of a text whose distinct n-grams are predicted; 10 times it when None.
        cache_curve: Measure how often caches of rows would hit, by their size.
        cache_tokens: Tokens, from the first on, to measure that with; a million when None.
        format: Files of hash ids.
        overwrite: Replace a folder of hash ids that is there, or what is left of an unfinished one.
        resume: Continue an unfinished folder; a finished one is recognised.

    Raises:
        UsageError: An option has no effect, is of another type, none of its choices or too small.
    """

    layers: Sequence[int] | None = None
    check: bool = False
    predict: int | None = None
    cache_curve: bool = False
    cache_tokens: int | None = None
    format: Format = "npy"
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        from engram.growth import FIRST_TOKENS

        check_fields(self, shard_tokens=1, cache_tokens=1)
        if self.predict is not None and self.predict < FIRST_TOKENS:
            raise UsageError(
                f"--predict {self.predict}: growth is counted from {FIRST_TOKENS:,} tokens on.",
                "Give a longer length, such as 10B.",
            )
        layers = self.layers
        if layers is not None and (not layers or len(set(layers)) < len(layers)):
            raise UsageError(
                f"layers must name at least one layer, and each once, got {list(layers)}.",
                "Leave it out to hash all of them.",
                layers=list(layers),
            )
        if not self.cache_curve and self.cache_tokens is not None:
            raise UsageError(
                f"--cache-tokens {self.cache_tokens} says what --cache-curve measures, which is "
                "not there.",
                "Add --cache-curve, or leave out --cache-tokens.",
            )

    @property
    def measured_tokens(self) -> int | None:
        """Tokens that cache curves are measured with; None without them."""
        tokens = _CACHE_TOKENS if self.cache_tokens is None else self.cache_tokens
        return tokens if self.cache_curve else None

    def check_writing(self, is_written: bool, is_stdin: bool) -> None:
        """Check that what is said about writing has an effect.

        Args:
            is_written: Whether hash ids are written.
            is_stdin: Whether the text is standard input.

        Raises:
            UsageError: It has none, or standard input is to be read again.
        """
        is_said = self.overwrite or self.format != "npy" or self.shard_tokens != SHARD_TOKENS
        if is_said and not is_written:
            raise UsageError(
                "--format, --shard-size and --overwrite are for what -o writes.",
                "Leave them out, or give -o (in Python, output).",
            )
        if self.resume and (is_stdin or not is_written):
            raise UsageError(
                "Only what -o writes can be resumed, from a text that can be read again.",
                "Leave out --resume.",
            )
