"""Single flipped bits in every kind of file the toolkit writes: who notices, and that none crashes.

The table of who noticed how many is printed at the end of the run.
"""

from __future__ import annotations

import random
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.forks import Forks
from support.paths import BPE

pytestmark = pytest.mark.torture

_TIMES = 24
# Loads every batch, or a model and its logits, and ends as the command line would.
_LOAD = """
import engram, torch
model = engram.load({folder!r}, tables="disk")
model = engram.load({folder!r})
"""
_JOIN = """
import engram
model = engram.load({base!r}, {folder!r})
"""
_HASHED = """
from engram import HashedDataset
options = {{"tokenizer": {bpe!r}, "window_tokens": 64, "check_digests": True}}
for batch in HashedDataset({folder!r}, {config!r}, **options):
    pass
"""


@dataclass(frozen=True)
class Artefact:
    """A result, and who reads it.

    Attributes:
        name: Its name in the table.
        words: Words of the command that writes it to ``out``.
        readers: Words of commands, or a program, by name; ``{}`` is the folder of inputs.
        surest: The reader that has to notice every flip in files with a digest.
        undigested: Files whose every byte no digest covers: those that hold the digests.
    """

    name: str
    words: str
    readers: dict[str, str]
    surest: str
    undigested: tuple[str, ...]
    noticed: Counter[tuple[str, str]] = field(default_factory=Counter, compare=False)
    flips: Counter[str] = field(default_factory=Counter, compare=False)


_ATTACHED = {
    "report": "report out",
    "verify --headers-only": "verify out --headers-only",
    "verify --full": "verify out --headers-only --full",
    "detach": "detach out -o base-again",
    "load": _LOAD.format(folder="out"),
}
ARTEFACTS = [
    Artefact(
        "attached folder",
        "attach {}/base -c {}/memory.yaml -o out --digests",
        _ATTACHED,
        "verify --full",
        # Tokens that were added to a tokenizer are told, and are no failure.
        ("config.json", "README.md", "tokenizer*.json"),
    ),
    Artefact(
        "fp8 folder",
        "attach {}/base -c {}/memory.yaml -o out --dtype fp8 --digests",
        {name: _ATTACHED[name] for name in ("verify --full", "load")},
        "verify --full",
        ("config.json", "README.md", "tokenizer*.json"),
    ),
    Artefact(
        "adapter",
        "attach {}/base -c {}/memory.yaml -o out --adapter --digests",
        {
            "report": "report out",
            "verify --full": "verify out --headers-only --full",
            "load": _JOIN.format(folder="out", base="{}/base"),
        },
        "verify --full",
        ("engram_adapter.json", "README.md"),
    ),
    Artefact(
        "corpus",
        f"corpus build {{}}/text.jsonl -t {BPE} -o out --shard-size 20000 -j 1",
        {
            "corpus info": "corpus info out",
            "corpus verify": "corpus verify out",
            "hash": "hash out -c {}/attached -j 1",
            "HashedDataset": _HASHED.format(folder="out", config="{}/memory.yaml", bpe=str(BPE)),
        },
        "corpus verify",
        ("manifest.json",),
    ),
    Artefact(
        "hash ids",
        "hash {}/text.jsonl -c {}/attached -o out --shard-size 20000 -j 1",
        {"corpus verify": "corpus verify out"},
        "corpus verify",
        ("manifest.json",),
    ),
    Artefact(
        "hash ids in parquet",
        "hash {}/text.jsonl -c {}/attached -o out -j 1 --format parquet",
        {"corpus verify": "corpus verify out"},
        "corpus verify",
        ("manifest.json",),
    ),
]
_BY_NAME = [pytest.param(artefact, id=artefact.name) for artefact in ARTEFACTS]


def flip_bits(artefact: Artefact, forks: Forks, inputs: Path, folder: Path) -> None:
    def run(words: str, cwd: Path):
        words = words.replace("{}", str(inputs))
        environment = {"ENGRAM_CACHE": str(folder / "cache")}
        program = [words] if "\n" in words else words.split()
        return forks.run(program, cwd, is_program="\n" in words, env=environment)

    done = run(artefact.words, folder)
    assert done.code == 0, done.stderr
    for name, words in artefact.readers.items():
        done = run(words, folder)
        assert done.code == 0, (name, done.stderr)
        shutil.rmtree(folder / "base-again", ignore_errors=True)
    chance = random.Random(zlib.crc32(artefact.name.encode()))
    for path in sorted(_files(folder / "out")):
        file = path.relative_to(folder / "out").as_posix()
        whole = path.read_bytes()
        for _ in range(_TIMES if whole else 0):
            at, bit = chance.randrange(len(whole)), chance.randrange(8)
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            # In place, since a new file would not be the one that hard links share.
            path.write_bytes(damaged)
            artefact.flips[file] += 1
            for name, words in artefact.readers.items():
                done = run(words, folder)
                shutil.rmtree(folder / "base-again", ignore_errors=True)
                where = f"{file}: bit {bit} of byte {at}, {name}"
                assert done.code in (0, 3, 4, 5), (where, done.code, done.stderr)
                assert "\x1b" not in done.stdout + done.stderr, where
                artefact.noticed[file, name] += done.code != 0
                if name == artefact.surest and not _is_undigested(artefact, file):
                    assert done.code != 0, f"{where}: not noticed"
        path.write_bytes(whole)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _is_undigested(artefact: Artefact, file: str) -> bool:
    return any(Path(file).match(pattern) for pattern in artefact.undigested)


def told(artefact: Artefact) -> Iterator[str]:
    """Lines that say who noticed how many of the flips in each file."""
    for file, flips in artefact.flips.items():
        counts = [f"{name} {artefact.noticed[file, name]}" for name in artefact.readers]
        yield f"{artefact.name}: {file}: of {flips} flips noticed {', '.join(counts)}"


@pytest.mark.parametrize("artefact", _BY_NAME)
def test_flipped_bits_crash_nothing_and_are_noticed(
    artefact, forks, inputs, tmp_path, record_property
):
    flip_bits(artefact, forks, inputs, tmp_path)
    for line in told(artefact):
        record_property("noticed", line)
