"""One valid artefact of every kind that the toolkit reads, with the calls that read it."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hashed_statistics
import pytest
import sparse_folder
import tiny

from engram.config_file import write_config
from engram_cli.main import app

TEXT = "The river ran past the old mill.\n\nA valley below the hill: 3 < 4.\n\nEnd.\n"
# Stand in a call for the changed artefact, for a folder to be written, and for valid companions.
PATH, OUT = "PATH", "OUT"


@dataclass(frozen=True)
class Artefact:
    """A file or folder, and what reads it.

    Attributes:
        name: Its kind.
        path: Where it is.
        calls: Command lines, or functions of its path.
        heavy: Calls that build a model, and take seconds.
    """

    name: str
    path: Path
    calls: Sequence[list[str] | Callable[[Path], object]]
    heavy: Sequence[list[str] | Callable[[Path], object]] = ()


def make_artefacts(folder: Path) -> list[Artefact]:
    """Write them all into an empty folder."""
    base = tiny.base_model("llama", folder / "base")
    sharded = tiny.base_model("gpt2", folder / "sharded", max_shard_size="40KB")
    attached = tiny.attached_model(base, folder / "attached")
    adapter = tiny.attached_model(base, folder / "adapter", adapter=True)
    config = folder / "memory.yaml"
    write_config(config, tiny.memory_config(tokenizer=str(tiny.TOKENIZER)))
    text = folder / "text.txt"
    text.write_text(TEXT)
    released = sparse_folder.write(
        folder / "released",
        sparse_folder.V41_CONFIG,
        {"model-00001-of-00001.safetensors": sparse_folder.v41_layer(1, 96)},
    )
    stated = folder / "published"
    run(["convert", str(attached), "-o", str(stated), "--to", "demo"])
    corpus = folder / "corpus"
    run(["corpus", "build", str(text), "-t", str(tiny.TOKENIZER), "-o", str(corpus), "-j", "1"])
    hashes = folder / "hashes"
    words = ["-t", str(tiny.TOKENIZER), "-c", str(config), "-j", "1"]
    run(["hash", str(text), *words, "-o", str(hashes)])
    return [
        *_small_files(folder, base, config, text),
        *_texts(folder, words),
        _tokenizer(folder, text),
        Artefact(
            "base",
            base,
            [
                ["size", "--model", PATH],
                ["report", PATH],
                ["report", str(config), "--model", PATH],
                ["config", "new", "tiny", "--model", PATH, "-o", OUT],
                ["verify", PATH, "--headers-only"],
                ["lookup", PATH, "the mill"],
                load,
            ],
            [["attach", PATH, "-c", str(config), "-o", OUT]],
        ),
        Artefact(
            "sharded base",
            sharded,
            [["size", "--model", PATH], ["report", PATH]],
            [["attach", PATH, "-c", str(config), "-o", OUT, "--dry-run"]],
        ),
        Artefact(
            "attached",
            attached,
            [
                ["report", PATH],
                ["verify", PATH, "--headers-only"],
                ["lookup", PATH, "the mill"],
                ["hash", str(text), "-c", PATH, "-t", str(tiny.TOKENIZER), "-j", "1"],
                ["convert", PATH, "-o", OUT, "--dtype", "int8"],
                ["convert", PATH, "-o", OUT, "--to", "demo"],
                ["detach", PATH, "-o", OUT],
            ],
            [load, load_disk, ["verify", PATH]],
        ),
        Artefact(
            "adapter",
            adapter,
            [
                ["report", PATH],
                ["verify", PATH, "--headers-only"],
                ["convert", PATH, "-o", OUT, "--dtype", "bf16"],
            ],
            [lambda path: _load(base, path)],
        ),
        Artefact("released", released, [["report", PATH], ["verify", PATH, "--headers-only"]]),
        Artefact(
            "published",
            stated,
            [
                ["report", PATH],
                ["lookup", PATH, "the mill", "-t", str(tiny.TOKENIZER)],
                ["convert", PATH, "-o", OUT, "--dtype", "fp8", "-t", str(tiny.TOKENIZER)],
            ],
        ),
        Artefact(
            "corpus",
            corpus,
            [
                ["corpus", "info", PATH],
                ["corpus", "verify", PATH],
                ["hash", PATH, *words],
                lambda path: windows(path, config),
            ],
        ),
        Artefact(
            "hash ids",
            hashes,
            [
                ["hash", PATH, *words],
                ["hash", str(text), *words, "-o", PATH, "--resume"],
                ["corpus", "verify", PATH],
                lambda path: windows(path, config),
            ],
        ),
    ]


def _small_files(folder: Path, base: Path, config: Path, text: Path) -> list[Artefact]:
    as_json = folder / "memory.json"
    as_json.write_text(json.dumps(tiny.memory_config(tokenizer=str(tiny.TOKENIZER)).to_dict()))
    template = shutil.copyfile(Path(__file__).parents[2] / "templates/gpt2.yaml", folder / "t.yaml")
    stats = hashed_statistics.write_statistics(folder / "stats.json")
    header = folder / "model.safetensors"
    shutil.copyfile(base / "model.safetensors", header)
    gguf = folder / "model.gguf"
    gguf.write_bytes(b"GGUF\3\0\0\0" + bytes(range(1, 60)) * 4)
    reads = [
        ["config", "check", PATH],
        ["report", PATH],
        ["hash", str(text), "-c", PATH, "-j", "1"],
        ["size", "--model", "gpt2", "--corpus", PATH],
    ]
    return [
        Artefact("config", config, reads),
        Artefact("JSON config", as_json, reads),
        Artefact("template", template, reads[:2]),
        Artefact(
            "statistics",
            stats,
            [
                ["size", "--model", "gpt2", "--corpus", PATH],
                ["size", "--model", "gpt2", "--corpus", PATH, "--tokens", "1B"],
            ],
        ),
        Artefact(
            "safetensors", header, [["report", PATH], ["verify", PATH], ["lookup", PATH, "a"]]
        ),
        Artefact(
            "GGUF",
            gguf,
            [["report", PATH], ["verify", PATH], ["attach", PATH, "-o", OUT], reads[0], reads[2]],
        ),
    ]


def _texts(folder: Path, words: list[str]) -> list[Artefact]:
    records = [json.dumps({"text": part, "n": 1}) for part in TEXT.split("\n\n")]
    lines = "\n".join(records) + "\n"
    (folder / "text.jsonl").write_text(lines)
    (folder / "text.json").write_text(f"[{', '.join(records)}]")
    (folder / "text.csv").write_text(
        "text,n\n" + "".join(f'"{record!r}",1\n' for record in records)
    )
    (folder / "text.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    names = ["text.txt", "text.jsonl", "text.json", "text.csv", "text.jsonl.gz"]
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        pass
    else:
        table = pyarrow.table({"text": TEXT.split("\n\n")})
        parquet.write_table(table, folder / "text.parquet")
        names.append("text.parquet")
    build = ["corpus", "build", PATH, "-t", str(tiny.TOKENIZER), "-o", OUT, "-j", "1"]
    skip = [*build, "--on-error", "skip"]
    return [Artefact(n, folder / n, [build, skip, ["hash", PATH, *words]]) for n in names]


def _tokenizer(folder: Path, text: Path) -> Artefact:
    path = shutil.copytree(tiny.TOKENIZER, folder / "tokenizer")
    (path / "added_tokens.json").write_text('{"<more>": 544}')
    (path / "special_tokens_map.json").write_text('{"pad_token": {"content": "<pad>"}}')
    calls = [
        ["hash", str(text), "-t", PATH, "-j", "1"],
        ["corpus", "build", str(text), "-t", PATH, "-o", OUT, "-j", "1"],
    ]
    return Artefact("tokenizer", path, calls)


def run(words: list[str]) -> None:
    """Run a command that must go well."""
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told), pytest.raises(SystemExit) as end:
        app(words)
    assert not end.value.code, told.getvalue()


def load(path: Path) -> None:
    """Load a folder as a model."""
    _load(path)


def load_disk(path: Path) -> None:
    """Load a folder as a model that reads its tables from disk."""
    _load(path, tables="disk")


def _load(*paths: Path, **options: Any) -> None:
    import torch

    import engram

    model = engram.load(*paths, **options)
    with torch.no_grad():
        model(torch.arange(8)[None] % 50)


def windows(path: Path, config: Path) -> None:
    """Read all windows of a folder of token shards."""
    from engram.corpus.dataset import HashedDataset

    for _ in HashedDataset(path, config, window_tokens=8):
        pass
