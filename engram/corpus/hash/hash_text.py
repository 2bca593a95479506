"""`hash_text`: a text or token shards to hash ids, and how it fills the tables of a memory."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.addressing.addresses import Addresses
from engram.config.engram_config import EngramConfig
from engram.config.templates import given_config
from engram.corpus.building.unit_work import check_digest
from engram.corpus.hash.hash_config import find_memory
from engram.corpus.hash.hash_folder import Target
from engram.corpus.hash.hash_options import HashOptions
from engram.corpus.hash.hash_shards import bytes_per_token
from engram.corpus.hash.hashed_text import SCHEMA, HashedText
from engram.corpus.hash.pipeline import check_target, estimate_bytes, hash_documents
from engram.corpus.results.result_folder import MANIFEST
from engram.corpus.text.readers import TextReader
from engram.corpus.text.sources import PassedOver
from engram.corpus.text.text_options import STDIN
from engram.corpus.tokens.stored_tokens import StoredTokens
from engram.errors import UsageError
from engram.storage.files import Progress

if TYPE_CHECKING:
    from engram.addressing.tokenizer_files import TokenizerFile
    from engram.corpus.ray.ray_engine import RayEngine


@dataclass(frozen=True, kw_only=True)
class HashPlan:
    """A text to be hashed, from `plan_hash`.

    Attributes:
        reader: The documents, as text or as tokens.
        config: The memory.
        tokenizer: Its tokenizer.
        addresses: Its constants, of the layers that are hashed.
        add_eos: Whether every document ends with the end-of-text token.
        target: The folder of hash ids to appear; None for statistics alone.
        options: What is counted, and the form of the ids.
    """

    reader: TextReader | StoredTokens
    config: EngramConfig
    tokenizer: TokenizerFile
    addresses: Addresses
    add_eos: bool
    target: Target | None
    options: HashOptions

    @property
    def passed_over(self) -> list[PassedOver]:
        """Entries of the text's folder that are not read."""
        return [] if isinstance(self.reader, StoredTokens) else self.reader.passed_over

    @property
    def compressed_vocab_size(self) -> int | None:
        """Distinct ids after compression; None where raw ids are hashed."""
        return None if self.addresses.token_map is None else self.addresses.vocab_size

    def to_dict(self) -> dict[str, Any]:
        """Return what ``engram hash -o DIR --dry-run --json`` prints; .parquet is smaller."""
        target = self.target
        if target is None:
            raise UsageError("Without a folder nothing is written.", "Give output, or -o.")
        parent = target.folder.absolute().parent
        while not parent.exists():
            parent = parent.parent
        return {
            "schema": SCHEMA,
            "dry_run": True,
            "fingerprint": self.addresses.fingerprint,
            "output": str(target.folder),
            "format": target.format,
            "bytes_per_token": bytes_per_token(self.addresses, self.tokenizer.vocab_size),
            "estimated_bytes": estimate_bytes(
                self.reader, self.tokenizer, self.addresses, self.add_eos
            ),
            "free_bytes": shutil.disk_usage(parent).free,
        }

    def check(self) -> None:
        """Check that `run` may begin; nothing is written.

        Raises:
            InputError: Something is at the target that is not to be replaced.
        """
        if self.target is not None:
            check_target(self.reader, self.tokenizer, self.addresses, self.add_eos, self.target)

    def run(
        self,
        *,
        workers: int = 1,
        engine: RayEngine | None = None,
        progress: Progress | None = None,
    ) -> HashedText:
        """Do the work; see `hash_text`."""
        counts = hash_documents(
            self.reader,
            self.tokenizer,
            self.addresses,
            add_eos=self.add_eos,
            threads=workers,
            engine=engine,
            target=self.target,
            cache_tokens=self.options.measured_tokens,
            progress=progress,
        )
        return HashedText(self, counts, "local" if engine is None else "ray")


def hash_text(
    text: str | Path,
    config: str | Path | EngramConfig | None = None,
    tokenizer: str | Path | None = None,
    *,
    output: str | Path | None = None,
    options: HashOptions | None = None,
    workers: int = 1,
    engine: RayEngine | None = None,
    progress: Progress | None = None,
) -> HashedText:
    """Hash a text as a memory reads it, count its n-grams, and write its ids where asked to.

    Rows hit are exact; so are distinct n-grams up to 16.8M an order, and collisions; then they are
    estimated to about 0.1 % and labelled. Results depend neither on the number of workers nor on
    who does the work. Ids are written into a hidden folder beside `output` until all are done.

    Args:
        text: A file, a folder of texts or of token shards, or ``-`` for standard input.
        config: The memory: a config, its file, or the name of a template; one that is sized for the
            tokenizer when None.
        tokenizer: Folder, tokenizer.json or hub id; the config's, or gpt2, when None.
        output: Folder of hash ids to appear; None for statistics alone.
        options: How the text is read, what is counted, and the form of the ids.
        workers: Threads that hash, and processes that tokenise for ids.
        engine: A `RayEngine` that tokenises and counts; this machine when None.
        progress: Called with the bytes read so far and their total.

    Returns:
        Counts and statistics; `to_dict()` is what ``engram hash --json`` prints.

    Raises:
        UsageError: An option has no effect on this text.
        InputError: The text cannot be read or has no tokens, or the folder cannot appear.
        MissingFileError: The text, the config or the tokenizer is not there.
        MismatchError: The config, or the tokens, were made with another tokenizer.

    Examples:
        >>> import engram
        >>> hashed = engram.hash_text("corpus.txt", tokenizer="gpt2")
        >>> hashed.counts.documents
        2
    """
    plan = plan_hash(text, config, tokenizer, output=output, options=options)
    plan.check()
    return plan.run(workers=workers, engine=engine, progress=progress)


def plan_hash(
    text: str | Path,
    config: str | Path | EngramConfig | None = None,
    tokenizer: str | Path | None = None,
    *,
    output: str | Path | None = None,
    options: HashOptions | None = None,
) -> HashPlan:
    """Find out what `hash_text` would do; its arguments and errors are the same."""
    options = HashOptions() if options is None else options
    options.check_writing(output is not None, str(text) == STDIN)
    reader: TextReader | StoredTokens
    if (Path(text) / MANIFEST).is_file():
        reader, add_eos = _stored(Path(text), options)
        tokenizer = tokenizer or (reader.tokenizer["name"] if config is None else None)
    elif options.check:
        raise UsageError(
            f"{text} is not a folder of tokens: it has no digests.", "Leave out --check."
        )
    else:
        reader = TextReader(
            text, split=options.split, text_key=options.text_key, on_error=options.on_error
        )
        add_eos = options.adds_eos
    target = None
    if output is not None:
        form = (options.format, options.shard_tokens, options.overwrite, options.resume)
        target = Target(Path(output), *form)
        if not target.resume:
            target.check()
    stated = None if config is None else given_config(config)
    memory, file, addresses = find_memory(stated, tokenizer, options.layers)
    if isinstance(reader, StoredTokens):
        check_digest(file, reader.tokenizer["sha256"])
    return HashPlan(
        reader=reader,
        config=memory,
        tokenizer=file,
        addresses=addresses,
        add_eos=add_eos,
        target=target,
        options=options,
    )


def _stored(folder: Path, options: HashOptions) -> tuple[StoredTokens, bool]:
    """Open token shards; say whether the end-of-text token ends their documents."""
    if options.is_about_text:
        raise UsageError(
            f"{folder} holds tokens: --eos, --no-eos, --text-column, --split and --on-error are "
            "for text.",
            "They were chosen when it was built.",
        )
    stored = StoredTokens(folder, check_digests=options.check)
    return stored, stored.tokenizer.get("eos_id") is not None
