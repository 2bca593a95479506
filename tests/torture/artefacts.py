"""One valid artefact of every kind that the toolkit reads, with the calls that read it."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from support import foreign_corpora, hashed_statistics, sparse_folder
from support.cli import run
from support.paths import BPE, REPOSITORY

TEXT = "The river ran past the old mill.\n\nA valley below the hill: 3 < 4.\n\nEnd.\n"
# Stand in a call for the changed artefact, for a folder to be written, and for valid companions.
PATH, OUT = "PATH", "OUT"
# Folders of tokens as other tools have them.
FOREIGN = ("megatron", "datatrove", "llm-c", "dataset")
Calls = Sequence[list[str] | Callable[[Path], object]]


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
    calls: Calls
    heavy: Calls


def write_artefacts(folder: Path) -> None:
    """Write them all into an empty folder; imports torch and transformers."""
    from engram.config.config_file import write_config
    from support import tiny
    from support.gguf_memories import write_filled

    base = tiny.base_model("llama", folder / "base")
    tiny.base_model("gpt2", folder / "sharded", max_shard_size="40KB")
    attached = tiny.attached_model(base, folder / "attached")
    tiny.attached_model(base, folder / "adapter", adapter=True)
    memory = tiny.memory_config(tokenizer=str(BPE))
    write_config(folder / "memory.yaml", memory)
    (folder / "memory.json").write_text(json.dumps(memory.to_dict()))
    shutil.copyfile(REPOSITORY / "templates" / "gpt2.yaml", folder / "gpt2.yaml")
    hashed_statistics.write_statistics(folder / "stats.json")
    shutil.copyfile(base / "model.safetensors", folder / "model.safetensors")
    write_filled(folder / "model.gguf", "gguf_ds4")
    shard = {"model-00001-of-00001.safetensors": sparse_folder.v41_layer(1, 96)}
    sparse_folder.write(folder / "released", sparse_folder.V41_CONFIG, shard)
    _write_texts(folder)
    _write_foreign(folder)
    shutil.copytree(BPE, folder / "tokenizer")
    (folder / "tokenizer" / "added_tokens.json").write_text('{"<more>": 544}')
    special = '{"pad_token": {"content": "<pad>"}}'
    (folder / "tokenizer" / "special_tokens_map.json").write_text(special)
    run("convert", attached, "-o", folder / "published", "--to", "demo").ended()
    text, corpus = folder / "text.txt", folder / "corpus"
    run("corpus", "build", text, "-t", BPE, "-o", corpus, "-j", 1).ended()
    run("hash", text, *_hashing(folder), "-o", folder / "hash-ids").ended()


def _write_texts(folder: Path) -> None:
    (folder / "text.txt").write_text(TEXT)
    records = [json.dumps({"text": part, "n": 1}) for part in TEXT.split("\n\n")]
    lines = "\n".join(records) + "\n"
    (folder / "text.jsonl").write_text(lines)
    (folder / "text.json").write_text(f"[{', '.join(records)}]")
    rows = "".join(f'"{record!r}",1\n' for record in records)
    (folder / "text.csv").write_text(f"text,n\n{rows}")
    (folder / "text.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return
    parquet.write_table(pyarrow.table({"text": TEXT.split("\n\n")}), folder / "text.parquet")


def _write_foreign(folder: Path) -> None:
    documents = [[0, *range(5, 5 + length)] for length in (9, 1, 30, 12)]
    for name in FOREIGN:
        (folder / name).mkdir()
    foreign_corpora.megatron(folder / "megatron" / "m", documents, 4, pieces=2)
    foreign_corpora.datatrove(folder / "datatrove" / "x.ds", documents, metadata=str(BPE))
    foreign_corpora.llm_c(folder / "llm-c" / "x.bin", documents)
    try:
        columns = {"input_ids": foreign_corpora.id_lists(documents)}
    except ImportError:
        return
    foreign_corpora.dataset(folder / "dataset", columns)


def list_artefacts(folder: Path) -> list[Artefact]:
    """List what `write_artefacts` wrote."""
    base, config, text = folder / "base", str(folder / "memory.yaml"), str(folder / "text.txt")
    tokenizer, words = ["-t", str(BPE)], _hashing(folder)
    headers, out = ["verify", PATH, "--headers-only"], ["-o", OUT]
    reads = [
        ["config", "check", PATH],
        ["report", PATH],
        ["hash", text, "-c", PATH, "-j", "1"],
        ["size", "--model", "gpt2", "--corpus", PATH],
    ]
    build = ["corpus", "build", PATH, *tokenizer, *out, "-j", "1"]
    texts = [build, [*build, "--on-error", "skip"], ["hash", PATH, *words]]
    sized = ["size", "--model", "gpt2", "--corpus", PATH]
    attach = ["attach", PATH, "-c", config, *out]
    calls: dict[str, tuple[Calls, Calls]] = {
        "memory.yaml": (reads, []),
        "memory.json": (reads, []),
        "gpt2.yaml": (reads[:2], []),
        "stats.json": ([sized, [*sized, "--tokens", "1B"]], []),
        "model.safetensors": ([["report", PATH], headers, ["lookup", PATH, "a"]], []),
        "model.gguf": (
            [["report", PATH], headers, ["lookup", PATH, "a", *tokenizer], reads[0], reads[2]],
            [attach],
        ),
        **{file.name: (texts, []) for file in sorted(folder.glob("text.*"))},
        "tokenizer": (
            [
                ["hash", text, "-t", PATH, "-j", "1"],
                ["corpus", "build", text, "-t", PATH, *out, "-j", "1"],
            ],
            [],
        ),
        "base": (
            [
                ["size", "--model", PATH, "--rows", "100"],
                ["report", PATH],
                ["report", config, "--model", PATH],
                ["config", "new", "tiny", "--model", PATH, *out],
                ["config", "check", config, "--model", PATH],
                headers,
                ["lookup", PATH, "the mill"],
            ],
            [attach, load],
        ),
        "sharded": (
            [["size", "--model", PATH, "--rows", "100"], ["report", PATH]],
            [[*attach, "--dry-run"]],
        ),
        "attached": (
            [
                ["report", PATH],
                headers,
                ["lookup", PATH, "the mill"],
                ["hash", text, "-c", PATH, *tokenizer, "-j", "1"],
                ["convert", PATH, *out, "--dtype", "int8"],
                ["convert", PATH, *out, "--to", "demo"],
                ["detach", PATH, *out],
            ],
            [load, load_disk, ["verify", PATH]],
        ),
        "adapter": (
            [["report", PATH], headers, ["convert", PATH, *out, "--dtype", "bf16"]],
            [partial(load_beside, base)],
        ),
        "released": ([["report", PATH], headers], []),
        "published": (
            [
                ["report", PATH],
                ["lookup", PATH, "the mill", *tokenizer],
                ["convert", PATH, *out, "--to", "demo", "--dtype", "fp16"],
            ],
            [],
        ),
        "corpus": (
            [["corpus", "info", PATH], ["corpus", "verify", PATH], ["hash", PATH, *words]],
            [partial(windows, config)],
        ),
        **{
            name: ([["hash", PATH, *words]], [partial(windows, config)])
            for name in FOREIGN
            if any((folder / name).iterdir())
        },
        "hash-ids": (
            [
                ["hash", PATH, *words],
                ["hash", text, *words, "-o", PATH, "--resume"],
                ["corpus", "verify", PATH],
            ],
            [partial(windows, config)],
        ),
    }
    return [Artefact(name, folder / name, *both) for name, both in calls.items()]


def _hashing(folder: Path) -> list[str]:
    return ["-t", str(BPE), "-c", str(folder / "memory.yaml"), "-j", "1"]


def load(*paths: Path, **options: Any) -> None:
    """Load a folder as a model, and run it."""
    import torch

    import engram

    model = engram.load(*paths, **options)
    with torch.no_grad():
        model(torch.arange(8)[None] % 50)


def load_disk(path: Path) -> None:
    """The same with tables on disk."""
    load(path, tables="disk")


def load_beside(base: Path, path: Path) -> None:
    """The same with an adapter beside its base."""
    load(base, path)


def windows(config: str, path: Path) -> None:
    """Read all windows of a folder of token shards."""
    from engram.corpus.hash.hashed_dataset import HashedDataset

    for _ in HashedDataset(path, config, window_tokens=8):
        pass
