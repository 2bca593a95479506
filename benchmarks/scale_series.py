"""The measurements of `scale.py`: one function for each, of a text or a table of a given size."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from scale_memory import ROW_BYTES, memory_of
from scale_runs import engram, run
from scale_text import GrowingText

from engram.config.config_file import write_config
from engram.threads import usable_cores

LAYERS = "1,6"
# Ray is measured up to here: what it adds shows by then.
MOST_RAY_BYTES = 300 * 10**6
# Sizes at which n-grams are sampled, and tables of which every row is not hit by then.
OPEN_BYTES, OPEN_ROWS = (10**9, 3 * 10**9), 4 * 10**8
# Text that is hashed for tables of all sizes.
TABLE_TEXT_BYTES = 10**7
# Larger texts are measured less often: they take longer, and vary less.
ROUND_BYTES = 10**9
# Bytes on the disk for each byte of a text: its token shards, and the units they are made of.
CORPUS_PART = 1.8
# Parts of the disk's room and of the memory that a measurement may take.
MOST_OF_DISK, MOST_OF_MEMORY = 0.95, 0.65
TABLES = Path(__file__).with_name("scale_tables.py")
Point = dict[str, Any]


class NoRoomError(RuntimeError):
    """A measurement is not made at a size, for want of memory, disk or purpose."""


@dataclass(frozen=True)
class Bench:
    """Where and how often is measured.

    Attributes:
        folder: Folder for texts, tokens and tables, on the disk to be measured.
        assets: Folder with english.txt, tokenizers and a checkpoint.
        rounds: Most runs of one measurement.
    """

    folder: Path
    assets: Path
    rounds: int

    @property
    def tokenizer(self) -> Path:
        """The tokenizer of all texts."""
        return self.assets / "tokenizers" / "gpt2"

    @property
    def corpus(self) -> Path:
        """The token shards of the text."""
        return self.folder / "tokens"

    @cached_property
    def _growing(self) -> GrowingText:
        return GrowingText((self.assets / "english.txt").read_bytes())

    def text(self, size_bytes: int) -> Path:
        """Make the text so long, and return its file."""
        path = self.folder / "text.txt"
        have = path.stat().st_size if path.exists() else 0
        self.need_disk(size_bytes - have)
        self._growing.fit(path, size_bytes)
        return path

    def measured(self, words: list[str], times: int, written: Path | None = None) -> Point:
        """Run a process several times.

        Args:
            words: Its words.
            times: Runs.
            written: A folder that it writes, which is removed before each run.

        Returns:
            Seconds of each run, the most memory of any, and the last answer.
        """
        runs = []
        for _ in range(times):
            if written is not None:
                shutil.rmtree(written, ignore_errors=True)
            os.sync()  # so that nothing of before is written while this is timed
            runs.append(run(words))
        return {
            "seconds": [it.seconds for it in runs],
            "held_bytes": max(it.held_bytes for it in runs),
            "answer": runs[-1].answer,
        }

    def times(self, size_bytes: int) -> int:
        """Runs of a measurement that reads a text of some length."""
        return min(self.rounds, max(1, ROUND_BYTES // size_bytes))

    def need_disk(self, size_bytes: float) -> None:
        """Raise `NoRoomError` if the disk has less room."""
        room = shutil.disk_usage(self.folder).free * MOST_OF_DISK
        if size_bytes > room:
            raise NoRoomError(
                f"{size_bytes / 1e9:.1f} GB of disk are needed, {room / 1e9:.1f} free"
            )

    def need_memory(self, size_bytes: float) -> None:
        """Raise `NoRoomError` if the machine has less memory."""
        memory = machine_memory() * MOST_OF_MEMORY
        if size_bytes > memory:
            raise NoRoomError(f"{size_bytes / 1e9:.1f} GB of memory are needed")


def machine_memory() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def hash_text(bench: Bench, size_bytes: int, *options: str) -> Point:
    """Measure ``engram hash TEXT --stats``."""
    text = bench.text(size_bytes)
    words = engram("hash", text, "-t", bench.tokenizer, "--layers", LAYERS, "--stats", *options)
    return _counted(bench.measured(words, bench.times(size_bytes)), text)


def hash_on_ray(bench: Bench, size_bytes: int) -> Point:
    """Measure the same with Ray, which is started for it on this machine."""
    if size_bytes > MOST_RAY_BYTES:
        raise NoRoomError(f"Ray is measured up to {MOST_RAY_BYTES / 1e6:.0f} MB")
    return hash_text(bench, size_bytes, "--engine", "ray", "-j", str(usable_cores()))


def build(bench: Bench, size_bytes: int) -> Point:
    """Measure ``engram corpus build``; the corpus stays."""
    text = bench.text(size_bytes)
    shutil.rmtree(bench.corpus, ignore_errors=True)
    bench.need_disk(CORPUS_PART * size_bytes)
    found = bench.measured(_building(bench, text), bench.times(size_bytes), bench.corpus)
    answer = found.pop("answer")
    written = sum(path.stat().st_size for path in bench.corpus.rglob("*"))
    return {
        "bytes": text.stat().st_size,
        "tokens": answer["tokens"],
        "written_bytes": written,
        **found,
    }


def hash_corpus(bench: Bench, size_bytes: int, *options: str | Path) -> Point:
    """Measure ``engram hash CORPUS --stats``, of the corpus of the text."""
    text = bench.text(size_bytes)
    manifest = bench.corpus / "manifest.json"
    inputs = json.loads(manifest.read_text())["inputs"] if manifest.is_file() else []
    if [it["bytes"] for it in inputs] != [text.stat().st_size]:
        shutil.rmtree(bench.corpus, ignore_errors=True)
        bench.need_disk(CORPUS_PART * size_bytes)
        run(_building(bench, text))
    options = options or ("-t", bench.tokenizer, "--layers", LAYERS)
    words = engram("hash", bench.corpus, "--stats", *options)
    return _counted(bench.measured(words, bench.times(size_bytes)), text)


def hash_open(bench: Bench, size_bytes: int) -> Point:
    """Measure the same for tables so large that no head of them is full at the end."""
    if size_bytes not in OPEN_BYTES:
        raise NoRoomError("open heads are measured at 1 and 3 GB")
    config = bench.folder / "memory.yaml"
    memory = memory_of(OPEN_ROWS, "gpt2", tokenizer=str(bench.tokenizer))
    write_config(config, replace(memory, layer_ids=[int(it) for it in LAYERS.split(",")]))
    found = hash_corpus(bench, size_bytes, "-c", config)
    config.unlink()
    return found


def hash_for_table(bench: Bench, rows: int) -> Point:
    """Measure ``engram hash TEXT --stats`` of the same text for a table of so many rows."""
    text, config = bench.text(TABLE_TEXT_BYTES), bench.folder / "memory.yaml"
    write_config(config, memory_of(rows, "gpt2", tokenizer=str(bench.tokenizer)))
    words = engram("hash", text, "-c", config, "--stats")
    found = _counted(bench.measured(words, bench.rounds), text)
    config.unlink()
    return found


def attach(bench: Bench, rows: int) -> Point:
    """Measure ``engram attach`` of one table to SmolLM2-135M."""
    bench.need_disk(rows * ROW_BYTES + 10**9)
    config, output = bench.folder / "memory.yaml", bench.folder / "attached"
    write_config(config, memory_of(rows, "smollm2"))
    words = engram("attach", bench.assets / "smollm2-135m", "-c", config, "-o", output)
    found = bench.measured(words, bench.times(rows * ROW_BYTES), output)
    del found["answer"]
    written = sum(path.stat().st_size for path in output.rglob("*"))
    shutil.rmtree(output)
    config.unlink()
    return {"written_bytes": written, **found}


def table(bench: Bench, rows: int, way: str) -> Point:
    """Measure one of the ways of `scale_tables.py` to use a table."""
    if way in ("ram", "step"):
        bench.need_memory(rows * ROW_BYTES)
    if way == "file-step":
        bench.need_disk(rows * 4 + 10**9)  # its state is not sparse
    folder = bench.folder / way
    folder.mkdir(exist_ok=True)
    try:
        found = run([sys.executable, str(TABLES), way, str(rows), str(folder)])
    finally:
        shutil.rmtree(folder)
    return {**found.answer, "held_bytes": found.held_bytes}


def _building(bench: Bench, text: Path) -> list[str]:
    return engram("corpus", "build", text, "-t", bench.tokenizer, "-o", bench.corpus)


def _counted(found: Point, text: Path) -> Point:
    """Return what is kept of a run of ``engram hash``."""
    answer = found.pop("answer")
    heads = answer["layers"][0]["heads"]
    return {
        "bytes": text.stat().st_size,
        "tokens": answer["tokens"],
        "distinct_ngrams": {str(it["order"]): it["distinct_ngrams"] for it in heads},
        "kind": heads[-1]["kind"],
        **found,
    }


@dataclass(frozen=True)
class Series:
    """One thing that is measured at several sizes.

    Attributes:
        name: Its name in the JSON.
        unit: What its sizes count.
        measure: Measures it at a size.
    """

    name: str
    unit: Literal["bytes", "rows"]
    measure: Callable[[Bench, int], Point]


def _of_table(way: str) -> Series:
    return Series(way, "rows", lambda bench, rows: table(bench, rows, way))


# Tables come first: their files need the room that texts take later.
SERIES = (
    *map(_of_table, ("kernel", "ram", "disk", "step", "file-step")),
    Series("hash-table", "rows", hash_for_table),
    Series("attach", "rows", attach),
    Series("hash", "bytes", hash_text),
    Series("build", "bytes", build),
    Series("hash-corpus", "bytes", hash_corpus),
    Series("hash-open", "bytes", hash_open),
    Series("hash-ray", "bytes", hash_on_ray),
)
