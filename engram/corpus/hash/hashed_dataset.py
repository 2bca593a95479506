"""`HashedDataset`: windows of tokens with their hash ids, hashed as they are read.

It is a torch dataset, so it is imported on first use. Shapes: T tokens of a window, L layers, C
columns.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch  # noqa: TID253 - this module is itself imported only when needed
from torch.utils.data import IterableDataset, get_worker_info  # noqa: TID253

from engram.addressing.hashing import Hasher
from engram.arguments import checked
from engram.config.engram_config import EngramConfig
from engram.config.templates import given_config
from engram.corpus.foreign.find_tokens import find_tokens
from engram.corpus.hash.hash_text import find_memory
from engram.corpus.hash.windows import Document, DocumentPieces, Window, cut_stored
from engram.corpus.text.documents import Split
from engram.corpus.text.readers import TextReader
from engram.corpus.text.text_options import TextOptions
from engram.errors import InputError, MismatchError, UsageError


class HashedDataset(IterableDataset[dict[str, torch.Tensor]]):
    """Windows of a corpus with the hash ids of their tokens, for a DataLoader.

    Use it to train a memory: hashing a window takes less time than reading its stored ids from a
    disk, and only tokens have to be stored (2 or 4 bytes each, instead of 128 more).

    Each window is a dict of int64 tensors: `input_ids` ``[T]``; `hash_ids` ``[T, L, C]``, without
    offsets, equal to those that `engram hash` stores for the same tokens, so that the first ones
    look back across the cut of a document; `position_ids` ``[T]``, the position in the document,
    restarting in every window, from which an attached model finds document starts.

    Windows do not overlap, and every token is in one, except for an incomplete window at the end.
    Workers of a DataLoader, and the ranks of a distributed run, share them:

    - a folder of token shards is cut as one text, and window i goes to share ``i % shares``: the
      same windows for any number of workers, and resuming reads nothing again;
    - for a text or an iterable, every share reads everything, takes each n-th piece (about 1 MiB of
      text, or one document), tokenises it and cuts windows from its own pieces.

    The order is that of the corpus, in every epoch. `state_dict` and `load_state_dict` save and
    restore the position: call them directly without workers; torchdata's StatefulDataLoader calls
    them in each worker.

    Examples:
        >>> windows = engram.HashedDataset("tokens", "config.yaml", window_tokens=512)
        >>> loader = torch.utils.data.DataLoader(windows, batch_size=8, num_workers=2)

    Args:
        source: A corpus of tokens (see `find_tokens`), or a text (file or folder, see
            `TextReader`), or an iterable of documents, each a string or a list of token ids.
        config: The memory, or the path of its config, or a template's name.
        window_tokens: Tokens T of a window.
        tokenizer: Name or path of the tokenizer; the config's when None.
        split: The end of a document in plain text; ``paragraph`` when None.
        text_key: Key of the text in JSON records, ``text`` when None; or column of the tokens of a
            data set, ``input_ids`` when None.
        add_eos: Whether documents of a text or an iterable end with the end-of-text token.
        rank: Index of the part of the corpus to read here, of `world_size` equal parts.
        world_size: Number of parts of the corpus. Leave it at 1 if the training loop itself
            distributes batches, as accelerate does.
        check_digests: Whether to compare the sha256 of every file of a folder of token shards
            first; names and sizes are always compared.

    Attributes:
        addresses: The memory's constants.
        n_windows: Windows of all shares; None if unknown before reading.

    Raises:
        UsageError: `window_tokens` is below 1, or `rank` is not below `world_size`.
        MismatchError: The folder's tokens were made with another tokenizer.
        ConfigError: The config is not valid.
        InputError: The folder cannot be read, or is shorter than one window.
        CorruptFileError: A file of the folder is missing or changed.
        MissingFileError: The corpus, config or tokenizer does not exist.
    """

    @checked(window_tokens=1, rank=0, world_size=1)
    def __init__(
        self,
        source: str | Path | Iterable[Document],
        config: EngramConfig | str | Path,
        *,
        window_tokens: int,
        tokenizer: str | None = None,
        split: Split | None = None,
        text_key: str | None = None,
        add_eos: bool = True,
        rank: int = 0,
        world_size: int = 1,
        check_digests: bool = False,
    ) -> None:
        if rank >= world_size:
            raise UsageError(
                f"rank must be >= 0 and below world_size ({world_size}), got {rank}.",
                "Ranks count from 0.",
                rank=rank,
                world_size=world_size,
            )
        _, file, self.addresses = find_memory(given_config(config), tokenizer)
        self._rank, self._world_size, self._window_tokens = rank, world_size, window_tokens
        self.n_windows: int | None = None
        found = find_tokens(source, text_key) if isinstance(source, (str, Path)) else None
        if found is not None:
            found.check_options(TextOptions(split=split, text_key=text_key))
            stored = found.open(file, check_digests=check_digests)
            self.n_windows = stored.n_tokens // window_tokens
            if not self.n_windows:
                raise InputError(
                    f"{source} has {stored.n_tokens} tokens, less than one window of "
                    f"{window_tokens}.",
                    "Use a smaller window.",
                    tokens=stored.n_tokens,
                )
            self._cut: Callable[..., Iterator[Window]] = partial(cut_stored, stored)
        else:
            text = (
                TextReader(source, TextOptions(split=split, text_key=text_key))
                if isinstance(source, (str, Path))
                else source
            )
            self._cut = DocumentPieces(text, file, add_eos).cut
        self._state: dict[str, int] = {}
        self._resume: dict[str, int] = {}

    def __repr__(self) -> str:
        count = "" if self.n_windows is None else f"{self.n_windows:,} "
        return f"<HashedDataset: {count}windows of {self._window_tokens} tokens>"

    def check(self, model: Any) -> None:
        """Compare the memory of these hash ids with a model's.

        Call it before training: hash ids of another memory may be valid rows of this one as well.

        Args:
            model: An attached model, wrapped (PEFT, DDP) or not.

        Raises:
            UsageError: The model has no memory.
            MismatchError: Its memory reads other rows; the message names the parts that differ.
        """
        while not hasattr(model, "engram_addresses") and hasattr(model, "module"):
            model = model.module  # the attribute of torch's own wrappers
        addresses = getattr(model, "engram_addresses", None)
        if addresses is None:
            raise UsageError(
                f"{type(model).__name__} has no memory to compare with.",
                "Give the model that engram.load returned.",
            )
        self.addresses.check(addresses.to_dict())

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the windows of this worker's share, from the restored position or the start.

        Raises:
            MismatchError: The restored position is for another share or another window size.
            InputError: A document cannot be read or tokenised.
        """
        worker = get_worker_info()
        index, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        work = {
            "share": self._rank * workers + index,
            "shares": self._world_size * workers,
            "window_tokens": self._window_tokens,
        }
        self._state = self._resume or {**work, "piece": 0, "token": 0}
        self._resume = {}
        saved = {key: self._state.get(key) for key in work}
        if saved != work:
            raise MismatchError(
                f"The saved position is for {_words(saved)}; this is {_words(work)}.",
                "Resume with the same number of workers and ranks, and the same window.",
                saved=saved,
                expected=work,
            )
        # The position is consumed here, not with the first window: a loader that was saved after
        # its last window reads none, and the epoch after it is complete.
        return self._windows(self._state)

    def _windows(self, state: dict[str, int]) -> Iterator[dict[str, torch.Tensor]]:
        windows = self._cut(most_past=self.addresses.max_ngram_size - 1, **state)
        for window, hasher in zip(windows, self._hashers(), strict=False):
            self._state = {**state, "piece": window.piece, "token": window.token}
            ids, _ = hasher.hash(window.tokens[None], starts=window.starts[None])
            tokens, starts = window.tokens[window.past :], window.starts[window.past :]
            places = np.arange(len(tokens))
            places -= np.maximum.accumulate(np.where(starts, places, 0))
            yield {
                "input_ids": torch.from_numpy(tokens.astype(np.int64)),
                "position_ids": torch.from_numpy(places),
                "hash_ids": torch.from_numpy(ids[0, window.past :]),
            }

    def state_dict(self) -> dict[str, int]:
        """Return the position after the last yielded window; {} before the first."""
        return dict(self._resume or self._state)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue the next iteration at a position that `state_dict` returned."""
        self._resume = dict(state)

    @cached_property
    def _hasher(self) -> Hasher:
        # A corpus is long enough for the compiled hash to pay.
        return Hasher(self.addresses, form="numba")

    @cached_property
    def _first_hasher(self) -> Hasher:
        return Hasher(self.addresses, form="numpy")

    def _hashers(self) -> Iterator[Hasher]:
        """Yield the hasher of each window in turn.

        Loading the compiled hash takes up to a second. A worker of a DataLoader begins with the
        numpy form, and loads the other one in a thread. A process that may still be forked starts
        no thread, which its forks would wait for.
        """
        if get_worker_info() is not None and "_hasher" not in self.__dict__:
            # Not a daemon: a process that ends while code is being compiled would be aborted.
            loading = Thread(target=self._load)
            loading.start()
            while loading.is_alive():
                yield self._first_hasher
        while True:
            yield self._hasher

    def _load(self) -> None:
        """Call the compiled hash, which loads it."""
        self._hasher.hash(np.zeros((1, 1), np.uint32))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the hashers, whose compiled code cannot be pickled."""
        return {key: it for key, it in self.__dict__.items() if not key.endswith("_hasher")}


def _words(work: Mapping[str, int | None]) -> str:
    return f"share {work['share']} of {work['shares']} in windows of {work['window_tokens']} tokens"
