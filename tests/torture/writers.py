"""Every command that writes: what it needs, its words, and how it is told to go on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support import tiny
from support.forks import Forks
from support.paths import BPE


@dataclass(frozen=True)
class Writer:
    """A command that writes to ``out``.

    Attributes:
        name: Its name here.
        words: Its words, where ``{}`` stands for the folder of inputs.
        older: Words that write something else to the same place, for it to replace.
        resumes: Whether it takes --resume.
        overwrites: Whether it takes --overwrite.
    """

    name: str
    words: tuple[str, ...]
    older: tuple[str, ...] = ()
    resumes: bool = False
    overwrites: bool = True

    def command(self, inputs: Path, *more: str) -> list[str]:
        return [word.replace("{}", str(inputs)) for word in self.words] + list(more)

    def before(self, inputs: Path) -> list[str]:
        return [word.replace("{}", str(inputs)) for word in self.older]


_BUILD = ("corpus", "build", "{}/text.jsonl", "-t", str(BPE), "-o", "out", "--shard-size", "20000")
_HASH = ("hash", "{}/text.jsonl", "-c", "{}/attached", "-o", "out", "--shard-size", "5000")

WRITERS = [
    Writer(
        "attach",
        ("attach", "{}/base", "-c", "{}/memory.yaml", "-o", "out"),
        ("attach", "{}/base", "-c", "{}/other.yaml", "-o", "out"),
    ),
    Writer("attach --link", ("attach", "{}/base", "-c", "{}/memory.yaml", "-o", "out", "--link")),
    Writer(
        "attach --adapter",
        ("attach", "{}/base", "-c", "{}/memory.yaml", "-o", "out", "--adapter"),
        ("attach", "{}/base", "-c", "{}/other.yaml", "-o", "out", "--adapter"),
    ),
    Writer("detach", ("detach", "{}/attached", "-o", "out"), overwrites=False),
    Writer(
        "convert",
        ("convert", "{}/attached", "-o", "out", "--dtype", "fp8"),
        ("convert", "{}/attached", "-o", "out", "--dtype", "int8"),
    ),
    Writer("convert --to demo", ("convert", "{}/attached", "-o", "out", "--to", "demo")),
    Writer(
        "corpus build",
        (*_BUILD, "-j", "1"),
        (*_BUILD, "-j", "1", "--no-eos"),
        resumes=True,
    ),
    Writer("corpus build -j 2", (*_BUILD, "-j", "2"), resumes=True),
    Writer(
        "hash -o",
        (*_HASH, "-j", "1"),
        (*_HASH, "-j", "1", "--no-eos"),
        resumes=True,
    ),
    Writer("hash -o -j 2", (*_HASH, "-j", "2"), resumes=True),
    Writer("hash -o parquet", (*_HASH, "-j", "1", "--format", "parquet"), resumes=True),
    Writer(
        "constants",
        ("constants", "{}/attached", "-o", "out"),
        ("constants", "{}/memory.yaml", "-t", str(BPE), "-o", "out"),
    ),
    Writer(
        "golden",
        ("golden", "{}/attached", "-o", "out"),
        ("golden", "{}/memory.yaml", "-t", str(BPE), "-o", "out"),
    ),
    Writer(
        "config new",
        ("config", "new", "tiny", "-o", "out"),
        ("config", "new", "gpt2", "-o", "out"),
    ),
    Writer(
        "size --emit",
        ("size", "--model", "gpt2", "--emit", "out"),
        ("size", "--model", "gpt2", "--k", "3", "--emit", "out"),
    ),
    Writer(
        "size --plot",
        ("size", "--model", "gpt2", "--plot", "out.png"),
        ("size", "--model", "gpt2", "--k", "3", "--plot", "out.png"),
    ),
    Writer(
        "report --html",
        ("report", "engram-27b", "--html", "out.html"),
        ("report", "engram-40b", "--html", "out.html"),
    ),
]


def _write_sources(folder: Path) -> None:
    """Write a base, two memories for it and a text."""
    tiny.base_model("llama", folder / "base")
    for name, seed in (("memory", 42), ("other", 7)):
        values = tiny.memory_config(seed=seed).to_dict()
        (folder / f"{name}.yaml").write_text(json.dumps(values))
    words = ["the", "river", "ran", "past", "an", "old", "mill", "and", "on", "to", "a", "sea"]
    with (folder / "text.jsonl").open("w") as file:
        for i in range(1500):
            text = " ".join(words[(i * k + k) % len(words)] for k in range(1, 8 + i % 30))
            file.write(json.dumps({"text": f"{i} {text}"}) + "\n")


def make_inputs(folder: Path, forks: Forks) -> Path:
    """Write what the commands read."""
    _write_sources(folder)
    done = forks.run(["attach", "base", "-c", "memory.yaml", "-o", "attached"], folder)
    assert done.code == 0, done.stderr
    return folder


def warm_up(folder: Path) -> list[list[str]]:
    """Words of commands that use whatever is compiled, in a folder of their own."""
    _write_sources(folder)
    attach = f"attach {folder}/base -c {folder}/memory.yaml -o {folder}/attached -q"
    hash_ = f"hash {folder}/text.jsonl -c {folder}/attached -o {folder}/ids -j 1 -q"
    plot = f"size --model gpt2 --plot {folder}/out.png -q"  # finds the fonts, and reads them
    parquet = f"{hash_} --format parquet --overwrite"
    return [words.split() for words in (attach, hash_, parquet, plot)]


def seen(folder: Path, without: Sequence[str] = ()) -> dict[str, str]:
    """Everything in a folder, hidden or not: a digest of each file, where each link leads."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in sorted(folders) + sorted(files):
            path = Path(root) / name
            key = path.relative_to(folder).as_posix()
            if key.partition("/")[0] in without:
                continue
            if path.is_symlink():
                found[key] = f"link to {path.readlink()}"
            elif path.is_dir():
                found[key] = "folder"
            else:
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
