"""`HashPlan`: the work that hashes a text, from its tokens to statistics and a folder of ids."""

import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from engram.addressing.addresses import Addresses
from engram.addressing.tokenizer_files import TokenizerFile
from engram.config.engram_config import EngramConfig
from engram.corpus.building.build_corpus import BuildPlan
from engram.corpus.building.unit_work import encode
from engram.corpus.building.units import UNIT_BYTES
from engram.corpus.hash.hash_options import HashOptions
from engram.corpus.hash.hash_shards import (
    TOKEN_MAP,
    HashWriter,
    bytes_per_token,
    check_format,
    ids_dtype,
)
from engram.corpus.hash.hashed_text import SCHEMA, HashCounts, HashedText, count_tokens, some_ahead
from engram.corpus.ray.ray_engine import RayEngine
from engram.corpus.results.manifests import CORPUS_SCHEMA, HASHES_SCHEMA
from engram.corpus.results.result_folder import (
    ResultFolder,
    listed_bytes,
    write_manifest,
)
from engram.corpus.results.stored_corpus import Notes
from engram.corpus.results.work_folder import discard
from engram.corpus.text.blocks import Block
from engram.corpus.text.readers import TextReader
from engram.corpus.text.sources import PassedOver
from engram.corpus.tokens.mapped_tokens import MappedTokens
from engram.corpus.tokens.token_shards import StoredTokens
from engram.corpus.tokens.tokenise import TokenBatch, fast_encoder, token_dtype, tokenise
from engram.errors import UsageError
from engram.storage.files import Progress
from engram.storage.staging import clean
from engram.version import __version__


@dataclass(frozen=True, kw_only=True)
class HashPlan:
    """A text to be hashed, from `plan_hash`.

    Results do not depend on batches, threads or the engine. Statistics alone take one pass over the
    text. To write ids, the text is first tokenised into a hidden folder beside the output, where
    tokens and finished shards stay if the work is interrupted. Ids are always hashed in this
    process, since hashing them is faster than sending them.

    Attributes:
        reader: The documents, as text or as tokens.
        config: The memory.
        tokenizer: Its tokenizer.
        addresses: Its constants, of the layers that are hashed.
        output: The folder of hash ids to appear; None for statistics alone.
        options: How the text is read, what is counted, and the form of the ids.
        unit_bytes: At most about as many bytes of text as one worker tokenises at a time.
        note: A note for people on the tokenizer of tokens; None when there is nothing to say.
    """

    reader: TextReader | MappedTokens
    config: EngramConfig
    tokenizer: TokenizerFile
    addresses: Addresses
    output: ResultFolder | None
    options: HashOptions
    unit_bytes: int = UNIT_BYTES
    note: str | None = None

    @property
    def add_eos(self) -> bool:
        """Whether every document ends with the end-of-text token."""
        if isinstance(self.reader, MappedTokens):
            return self.reader.ends_with_eos
        return self.options.adds_eos

    @property
    def passed_over(self) -> list[PassedOver]:
        """Entries of the text's folder that are not read."""
        return [] if isinstance(self.reader, MappedTokens) else self.reader.passed_over

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram hash -o DIR --dry-run --json`` prints; .parquet is smaller."""
        if self.output is None:
            raise UsageError("Without a folder nothing is written.", "Give output, or -o.")
        there = next(path for path in self.output.path.absolute().parents if path.exists())
        return {
            "schema": SCHEMA,
            "dry_run": True,
            "fingerprint": self.addresses.fingerprint,
            "output": str(self.output.path),
            "format": self.options.format,
            "bytes_per_token": bytes_per_token(self.addresses, self.tokenizer.vocab_size),
            "estimated_bytes": self._estimated_bytes(),
            "free_bytes": shutil.disk_usage(there).free,
        }

    def check(self) -> None:
        """Check that `run` may begin; nothing is written.

        Whether a folder that is there is the one asked for, only `run` can tell.

        Raises:
            InputError: Something is at the output that is not to be replaced, or a build to resume
                started with other inputs.
            MissingPackageError: parquet needs pyarrow.
        """
        if self.output is not None and self.output.find() is None:
            check_format(self.options.format)
            self.output.check(self._job())

    def run(
        self,
        *,
        workers: int = 1,
        engine: RayEngine | None = None,
        progress: Progress | None = None,
    ) -> HashedText:
        """Do the work; see `hash_text`."""
        started = time.perf_counter()
        count = partial(
            count_tokens,
            addresses=self.addresses,
            cache_tokens=self.options.measured_tokens,
            workers=workers,
            engine=engine,
            progress=progress,
        )
        if self.output is None:
            counts = count(self._tokens(engine), total_bytes=self.reader.total_bytes)
        else:
            clean(self.output.path)
            counts = self._finished(self.output, engine, count) or self._write(
                self.output, workers, engine, progress, count
            )
        counts = replace(counts, seconds=time.perf_counter() - started)
        return HashedText(self, counts, "local" if engine is None else "ray")

    def _finished(
        self, output: ResultFolder, engine: RayEngine | None, count: Callable[..., HashCounts]
    ) -> HashCounts | None:
        """Count the text if the folder is there; None unless it is the one asked for."""
        if output.find() is None:
            return None
        counts = count(self._tokens(engine), total_bytes=self.reader.total_bytes)
        manifest = output.finished(self._describe(counts), "Hash again")
        if manifest is None:
            return None
        discard(output.path)
        written_bytes = listed_bytes(output.path, manifest)
        return replace(counts, written_bytes=written_bytes, was_finished=True)

    def _write(
        self,
        output: ResultFolder,
        workers: int,
        engine: RayEngine | None,
        progress: Progress | None,
        count: Callable[..., HashCounts],
    ) -> HashCounts:
        """Write hash ids; statistics are collected on the way."""
        check_format(self.options.format)
        with ExitStack() as stack:
            work = stack.enter_context(output.working(self._job()))
            notes, reader = Notes(), self.reader
            if isinstance(reader, TextReader):
                built = self._tokenising(reader, work / "tokens").run(
                    workers=workers,
                    engine=None if engine is None else engine.run_units,
                    progress=progress,
                )
                notes, reader = built.notes, StoredTokens(work / "tokens")
            writer = HashWriter(
                work, self.options, self.addresses, self.tokenizer.vocab_size, workers
            )
            stack.callback(writer.stop)
            counts = count(reader.batches(), total_bytes=reader.total_bytes, writer=writer)
            writer.close()
            with output.new() as new:
                values = {**self._describe(counts), "shards": writer.shards}
                written_bytes = write_manifest(new, work, values, writer.move(new))
        return replace(
            counts, notes=notes, written_bytes=written_bytes, resumed_shards=writer.resumed
        )

    def _tokens(self, engine: RayEngine | None) -> Generator[TokenBatch | Notes]:
        """Tokenise the text in one pass; yield its documents and, last, its notes."""
        reader = self.reader
        if isinstance(reader, MappedTokens):
            yield from reader.batches()
        elif engine is None:
            chosen = fast_encoder(self.tokenizer, reader.total_bytes)
            blocks: Iterator[Block] = iter(reader)
            # Two threads would list the problems of skipped documents in any order.
            if chosen[0] is not None and reader.options.on_error == "stop":
                blocks = some_ahead(blocks, 1)
            yield from encode(reader, blocks, self.tokenizer, chosen)
        else:
            tasks = self._tokenising(reader, Path()).tasks(Path())
            notes, read_before = [], 0
            for task, parts in zip(tasks, engine.encode_units(tasks), strict=True):
                for part in parts:
                    if isinstance(part, Notes):
                        notes.append(part)
                    else:
                        yield replace(part, read_bytes=read_before + part.read_bytes)
                read_before += task.size_bytes
            yield Notes.of_parts(notes)

    def _tokenising(self, reader: TextReader, folder: Path) -> BuildPlan:
        """Return the plan that tokenises the text into a folder of this job."""
        return BuildPlan(
            reader=reader,
            tokenizer=self.tokenizer,
            output=ResultFolder(folder, CORPUS_SCHEMA, resume=True, overwrite=True),
            unit_bytes=self.unit_bytes,
        )

    def _job(self) -> dict[str, Any]:
        """Return everything that determines the bytes of the hash ids."""
        if isinstance(self.reader, MappedTokens):
            text = {
                "engram_version": __version__,
                "tokens_sha256": self.reader.job_sha256,
                "shard_tokens": self.options.shard_tokens,
            }
        else:
            text = self._tokenising(self.reader, Path()).job()
        return {
            **text,
            "fingerprint": self.addresses.fingerprint,
            "format": self.options.format,
        }

    def _describe(self, counts: HashCounts) -> dict[str, Any]:
        """Return the manifest of the folder, without its shards and files."""
        addresses = self.addresses
        return {
            "schema": HASHES_SCHEMA,
            "engram_version": __version__,
            "fingerprint": addresses.fingerprint,
            "format": self.options.format,
            "shard_tokens": self.options.shard_tokens,
            "counts": {key: getattr(counts, key) for key in ("documents", "tokens", "ids")},
            "tokenizer": self.tokenizer.stated(self.add_eos),
            "tokens": {"dtype": token_dtype(self.tokenizer.vocab_size).name},
            "ids": {
                "dtype": ids_dtype(addresses).name,
                "axes": ["token", "layer", "column"],
                "column": "(order - 2) * heads + head",
                "layer_ids": addresses.layer_ids,
                "has_offsets": False,
                "row_offsets": [list(layer.offsets) for layer in addresses.layers],
            },
            "addresses": addresses.to_dict(),
            "token_map_file": None if addresses.token_map is None else TOKEN_MAP,
            "statistics": [asdict(layer) for layer in counts.layers],
        }

    def _estimated_bytes(self) -> int | None:
        """Estimate the bytes of .npy shards from the first MiB; None for standard input."""
        reader, tokenizer = self.reader, self.tokenizer
        token_bytes = bytes_per_token(self.addresses, tokenizer.vocab_size)
        if isinstance(reader, MappedTokens):
            return reader.n_tokens * token_bytes
        if reader.total_bytes is None:
            return None
        with closing(
            tokenise(reader, tokenizer, add_eos=self.add_eos, wrong=reader.wrong)
        ) as batches:
            first: TokenBatch | None = next(batches, None)
        if first is None:
            return None
        return round(
            len(first.tokens) * reader.total_bytes / max(first.read_bytes, 1) * token_bytes
        )
