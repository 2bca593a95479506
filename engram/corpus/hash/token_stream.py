"""The tokens of a text as one stream, from any engine, with notes about the tokenising."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from engram.corpus.building.build_job import plan_tasks
from engram.corpus.building.unit_work import Notes, UnitResult
from engram.corpus.building.units import UNIT_BYTES
from engram.corpus.text.readers import TextReader
from engram.corpus.text.text_options import SHARD_TOKENS, TextOptions
from engram.corpus.tokens.stored_tokens import StoredTokens
from engram.corpus.tokens.tokenise import TokenBatch, fast_encoder, tokenise

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile
    from engram.corpus.ray.ray_engine import RayEngine


class TokenStream:
    """The token batches of a text.

    Args:
        reader: The text, or its tokens.
        tokenizer: The tokenizer.
        add_eos: Whether every document ends with the end-of-text token.
        engine: Tokenises units of the text; None to do it in this process, in one pass.
        unit_bytes: Approximate bytes per unit.

    Attributes:
        notes: Notes from tokenising; complete when everything is read.
    """

    def __init__(
        self,
        reader: TextReader | StoredTokens,
        tokenizer: TokenizerFile,
        add_eos: bool = True,
        engine: RayEngine | None = None,
        unit_bytes: int = UNIT_BYTES,
    ) -> None:
        self.notes = Notes()
        self._reader, self._tokenizer = reader, tokenizer
        self._add_eos, self._engine, self._unit_bytes = add_eos, engine, unit_bytes

    def batches(self) -> Generator[TokenBatch]:
        """Yield the documents like `tokenise`, with the same errors."""
        if isinstance(self._reader, StoredTokens):
            yield from self._reader.batches()
        elif self._engine is None:
            yield from self._here(self._reader)
        else:
            yield from self._elsewhere(self._reader, self._engine)

    def _here(self, reader: TextReader) -> Generator[TokenBatch]:
        fast, engine = fast_encoder(self._tokenizer, reader.total_bytes)
        parts = tokenise(
            reader, self._tokenizer, add_eos=self._add_eos, fast=fast, wrong=reader.wrong
        )
        with closing(parts):
            yield from parts
        self.notes = Notes(
            skipped=reader.skipped,
            problems=tuple(error.message for error in reader.errors),
            engines=(engine,),
            warnings=(fast.problem,) if fast is not None and fast.problem else (),
        )

    def _elsewhere(self, reader: TextReader, engine: RayEngine) -> Generator[TokenBatch]:
        rules = text_rules(reader, self._add_eos)
        tasks = plan_tasks(reader.sources, self._tokenizer, rules, unit_bytes=self._unit_bytes)
        sizes = iter(task.unit.size_bytes for task in tasks)
        results, read_before = [], 0
        for part in engine.encode_units(tasks):
            if isinstance(part, UnitResult):
                results.append(part)
                read_before += next(sizes)
            else:
                yield replace(part, read_bytes=read_before + part.read_bytes)
        self.notes = Notes.of_units(results)


def text_rules(reader: TextReader, add_eos: bool, shard_tokens: int = SHARD_TOKENS) -> TextOptions:
    """Return the rules by which a reader's text becomes a corpus."""
    return TextOptions(
        add_eos=add_eos,
        split=reader.split,
        text_key=reader.text_key,
        on_error=reader.on_error,
        shard_tokens=shard_tokens,
    )
