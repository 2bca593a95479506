"""`BegunFolder`: an attached folder that is being written while it is still being checked.

Checks need transformers, whose import takes seconds, while a memory's tables need nothing of it. So
what is known without it is written on a thread meanwhile. Whatever the checks refuse is removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event

from engram.addressing.tokenizer_files import TokenizerFile
from engram.backbone.claims import stored_depths
from engram.backbone.families import canonical, stated_layers
from engram.checkpoints.attach.folder_plan import MAX_SHARD_BYTES, FolderPlan
from engram.checkpoints.attach.initial_values import table_values
from engram.checkpoints.attach.new_memory import attached_addresses
from engram.checkpoints.attach.own_files import own_files
from engram.checkpoints.read.base_checkpoint import BaseCheckpoint
from engram.checkpoints.read.memory_tensors import expected_tensors
from engram.config.engram_config import EngramConfig
from engram.config.init import Init
from engram.config.table_dtype import TableDtype
from engram.storage.chunks import Hole
from engram.storage.dtypes import QUANTISED
from engram.storage.files import Progress
from engram.storage.folders import new_folder
from engram.storage.safetensors_writer import TensorStream, header_bytes, plan_shards
from engram.storage.unfinished import Place


class BegunFolder:
    """A hidden folder whose weight files are written on a thread.

    As a context manager it begins; at the end it stops and removes everything, unless it was
    `finished`.

    Args:
        plan: The weight files.
        later: Names of tensors in them that are not known yet, and are holes in the plan.
        overwrite: See `FolderPlan.new_folder`.
    """

    def __init__(self, plan: FolderPlan, later: Collection[str], overwrite: bool) -> None:
        self._plan, self._later, self._overwrite = plan, later, overwrite
        self._stop, self._stack = Event(), ExitStack()
        self._steps: SimpleQueue[tuple[int, int | None] | None] = SimpleQueue()

    def __enter__(self) -> BegunFolder:
        """Begin to write.

        Raises:
            InputError: Something is at the output that may not be replaced.
            DoesNotFitError: The disk has too little room.
        """
        self._plan.check_room()
        with ExitStack() as stack:
            self._folder = stack.enter_context(
                new_folder(self._plan.output, own_files, self._overwrite)
            )
            pool = stack.enter_context(ThreadPoolExecutor(1))
            stack.callback(self._stop.set)  # before the thread is waited for
            self._writing = pool.submit(self._plan.write_weights, Place(self._folder), self._step)
            self._writing.add_done_callback(lambda _: self._steps.put(None))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self.discard()

    def discard(self) -> None:
        """Stop writing and remove everything, unless it was `finished`."""
        with suppress(_Stopped), self._stack:
            raise _Stopped  # without an error the folder would appear

    def is_begun_for(self, plan: FolderPlan) -> bool:
        """Whether a plan has weight files of the same names, headers and origins.

        Their tables are the same when both plans are of one config and one `init`.
        """
        mine, theirs = (
            (
                it.output,
                it.kept,
                it.link,
                [(name, header_bytes(shard)) for name, shard in it.shards],
            )
            for it in (self._plan, plan)
        )
        return mine == theirs

    @contextmanager
    def finished(self, plan: FolderPlan, progress: Progress | None) -> Iterator[Path]:
        """Write the rest, and have the folder appear when the block ends well.

        Args:
            plan: Everything that is to be in the folder; see `is_begun_for`.
            progress: Told the bytes written so far, on the caller's thread.

        Yields:
            The folder before it appears, for more files.

        Raises:
            InputError: See `FolderPlan.new_folder`.
            DoesNotFitError: The disk is full.
        """
        with self._stack:
            while (step := self._steps.get()) is not None:
                if progress is not None:
                    progress(*step)
            self._writing.result()
            self._fill_holes(plan)
            with plan.completed(self._folder):
                yield self._folder

    def _step(self, done: int, total: int | None) -> None:
        if self._stop.is_set():
            raise _Stopped
        self._steps.put((done, total))

    def _fill_holes(self, plan: FolderPlan) -> None:
        for name, shard in plan.shards:
            at = len(header_bytes(shard))
            with (self._folder / name).open("r+b") as file:
                for tensor in shard:
                    if tensor.name in self._later:
                        file.seek(at)
                        file.writelines(make() for make in tensor.chunks)
                    at += tensor.size_bytes


def begin(
    base: BaseCheckpoint,
    config: EngramConfig,
    output: Path,
    tokenizer: TokenizerFile | None,
    dtype: TableDtype,
    init: Init,
    *,
    link: bool,
    adapter: bool,
    overwrite: bool,
) -> BegunFolder | None:
    """Begin to write what attaching writes, as far as it is known without transformers.

    Args:
        base: The checkpoint.
        config: The memory, with the dtype that it is stored in.
        output: The folder to appear.
        tokenizer: See `describe_attachment`.
        dtype: dtype of the tables.
        init: See `EngramModule.reset_parameters`.
        link: Hard-link the base's weight files.
        adapter: Write none of them.
        overwrite: Replace an attached folder that is there.

    Returns:
        The folder; None where too little is known.

    Raises:
        EngramError: See `describe_attachment`.
    """
    layers_path = _likely_layers_path(base)
    # Making quantised values takes torch; folders above the output would stay after an error.
    if layers_path is None or dtype.name in QUANTISED or not output.absolute().parent.is_dir():
        return None
    addresses = attached_addresses(base, config, tokenizer)
    tables = table_values(config, addresses, layers_path, dtype, init)
    streams = [
        TensorStream(name, tag, shape, tables.get(name, ()))
        for name, (tag, shape) in expected_tensors(config, dtype, addresses, layers_path).items()
    ]
    later = {stream.name for stream in streams if stream.name not in tables}
    streams = [
        replace(it, chunks=[partial(Hole, it.size_bytes)]) if it.name in later else it
        for it in streams
    ]
    plan = FolderPlan(
        output=output,
        shards=plan_shards(streams, MAX_SHARD_BYTES),
        kept={} if adapter else base.kept_files,
        link=link,
    )
    return BegunFolder(plan, later, overwrite)


def _likely_layers_path(base: BaseCheckpoint) -> str | None:
    """Find the name of the base's list of layers in its files; None where it may be another."""
    if "text_config" in base.config:
        return None  # transformers renames the tensors of models for images
    depth = stated_layers(canonical(base.config).get)
    paths = [path for path, layers in stored_depths(base.tensors).items() if layers == depth]
    # A name without a dot lacks the prefix that transformers adds.
    return paths[0] if len(paths) == 1 and "." in paths[0] else None


class _Stopped(Exception):
    """Ends the writing of a folder that is given up."""
